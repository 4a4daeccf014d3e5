"""The figures by name: each has a meaning, what was not measured is None, shares are of the right whole."""

import pytest

from tests.support.measured import nothing, ten_calls
from voicerelay.cli.loadtest.metrics import MEANINGS, metrics_of


def test_every_figure_has_a_meaning_and_every_meaning_a_figure() -> None:
    assert metrics_of(ten_calls()).keys() == MEANINGS.keys()
    assert metrics_of(nothing()).keys() == MEANINGS.keys()


def test_figures_are_shares_of_the_right_whole() -> None:
    found = metrics_of(ten_calls())

    assert found["on_schedule"] == (3960 - 40) / 4000
    assert found["loss"] == 40 / 4000
    assert found["server_cpu_per_call"] == pytest.approx(1.6 / 80)
    assert found["client_cpu_per_call"] == pytest.approx(0.8 / 80)
    assert found["server_rss_per_call"] == 1 << 20
    assert (found["sent_agreement"], found["received_agreement"]) == (1.0, 3990 / 4000)
    assert found["setup_p99"] == pytest.approx(0.02, rel=0.02)
    assert found["dropped"] == 1


def test_what_was_not_measured_is_none() -> None:
    found = metrics_of(nothing())

    missing = {"setup_p99", "on_schedule", "loss", "mouth_to_ear_p50", "gap_max",
               "server_cpu_per_call", "server_rss_per_call", "sent_agreement"}  # fmt: skip
    assert {name for name in missing if found[name] is not None} == set()
    assert (found["asked"], found["failed"], found["connected_share"]) == (2, 2, 0)
