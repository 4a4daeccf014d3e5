"""Metrics: what scrapers can read, in base units, with few labels, and never going back."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain
from prometheus_client.samples import Sample

from tests.unit.cli.admin.looks import look
from voicerelay.cli.admin.metrics import REASONS, Metrics
from voicerelay.cli.admin.snapshot import Snapshot

TRANSCEIVER = Path(__file__).parents[4] / "transceiver"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
LABELS = {"relay", "transceiver", "kind", "reason", "direction", "phase", "le", "version", "plane"}


def samples(seen: Snapshot, metrics: Metrics | None = None) -> list[Sample]:
    text = (metrics or Metrics()).render(seen)[0].decode()
    return [sample for family in plain(text) for sample in family.samples]


def values(found: Iterable[Sample]) -> dict[tuple[str, tuple[Any, ...]], float]:
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for s in found}


def value(found: list[Sample], name: str, **labels: str) -> float:
    return values(found)["voicerelay_" + name, tuple(sorted(labels.items()))]


@pytest.mark.parametrize(("accept", "parse"), [("", plain), (OPEN_METRICS, open_metrics)])
def test_both_formats_are_what_their_parsers_take(accept: str, parse: Any) -> None:
    body, content_type = Metrics().render(look(), accept)

    families = list(parse(body.decode()))

    assert len(families) > 30
    assert ("openmetrics" in content_type) == bool(accept)
    assert len({family.name for family in families}) == len(families)
    assert all(family.documentation and family.type != "unknown" for family in families)


def test_names_have_one_prefix_and_labels_are_few() -> None:
    found = samples(look())

    for sample in found:
        assert re.fullmatch(r"voicerelay_[a-z0-9_]+", sample.name)
        assert set(sample.labels) <= LABELS
        assert not re.search(r"_(ms|us|millis|kb)(_|$)", sample.name)
    assert len(values(found)) == len(found)


def test_a_call_more_is_not_a_series_more() -> None:
    fewer, more = look(), look(calls=[{"id": str(n)} for n in range(400)])

    assert len(samples(fewer)) == len(samples(more))


def test_a_reason_that_is_not_ours_is_no_label() -> None:
    found = samples(look())

    assert value(found, "sessions_ended_total", reason="hung_up") == 2
    assert value(found, "sessions_ended_total", reason="operator") == 3
    assert value(found, "sessions_ended_total", reason="other") == 1
    assert not any("onerror" in str(sample) for sample in found)


def test_figures_add_up() -> None:
    found = samples(look(relays=(10, 11), transceivers=(20, 21)))

    assert value(found, "relay_packets_total", relay="1", kind="forwarded") == 1
    assert value(found, "relay_packets_dropped_total", reason="unknown_flow") == 2
    assert value(found, "relay_packets_dropped_total", reason="socket_overflow") == 2
    assert value(found, "rtp_packets_lost_total", direction="in") == 8
    assert value(found, "rtp_packets_lost_total", direction="out") == 6
    assert value(found, "session_setup_seconds_count", phase="dtls") == 2
    assert value(found, "session_setup_seconds_bucket", phase="dtls", le="0.025") == 0
    assert value(found, "session_setup_seconds_bucket", phase="dtls", le="0.05") == 2
    assert value(found, "frame_lateness_seconds_bucket", le="0.0005") == 6
    assert value(found, "frame_lateness_seconds_count") == 8
    assert value(found, "control_up") == 1
    assert value(found, "steering_enabled") == 0
    assert value(found, "sessions", transceiver="1") == 1


def test_without_control_that_is_what_is_told() -> None:
    found = samples(look(control=None))

    assert value(found, "control_up") == 0


def test_before_any_transceiver_answers_the_others_are_told() -> None:
    seen = look(transceivers=())

    assert value(samples(seen), "relay_up", relay="0") == 1


def test_no_counter_goes_back_when_processes_are_replaced() -> None:
    # given an instance whose processes have counted
    metrics = Metrics()
    busy = look()
    busy.status["relays"][0]["packets_received"] = 1000
    busy.status["transceivers"][0]["packets_sent"] = 500
    first = values(samples(busy, metrics))

    # when every process is a new one, or gone, and its figures are small
    for successors in (look((30, 31), (40,)), look((), ()), look((30, 31), (40,))):
        second = values(samples(successors, metrics))

        # then no counter and no bucket has gone back
        for key, before in first.items():
            if key[0].endswith(("_total", "_count", "_bucket", "_sum")) and key in second:
                assert second[key] >= before
        first |= second
    received = ("kind", "received"), ("relay", "0")
    assert first["voicerelay_relay_packets_total", received] == 1001


def test_every_reason_of_the_transceiver_has_a_label() -> None:
    said: set[str] = set()
    for path in TRANSCEIVER.rglob("*.py"):
        said |= set(re.findall(r"\.end\(\s*\"([^\"]+)\"", path.read_text()))

    assert len(said) > 8
    assert {reason.partition(":")[0] for reason in said} <= set(REASONS)
