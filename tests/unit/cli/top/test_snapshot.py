"""Two looks become figures a second; restarts and first looks have none."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.looks import BOUNDS, relay, sample, session, told, transceiver
from voicerelay.cli.top.sample import Use
from voicerelay.cli.top.snapshot import quantile, snapshot


def test_counters_become_rates() -> None:
    before = sample(10.0, [relay(0, packets_received=100)], [transceiver(0, packets_sent=50)])
    now = sample(
        12.0,
        [relay(0, packets_received=300, packets_forwarded=190, dropped={"queue_full": 10})],
        [transceiver(0, packets_received=190, packets_sent=250)],
    )

    found = snapshot(now, before)

    assert found["interval_s"] == 2.0
    assert found["relays"][0]["packets_in_per_s"] == 100
    assert found["relays"][0]["dropped_per_s"] == 5
    assert found["transceivers"][0]["packets_out_per_s"] == 100
    assert found["totals"]["packets_in_per_s"] == 100  # 95 that came to a transceiver, 5 dropped
    assert found["totals"]["drops"] == {"queue_full": {"count": 10, "per_s": 5.0}}


def test_the_first_look_has_no_rates() -> None:
    found = snapshot(sample(10.0))

    assert found["relays"][0]["packets_in_per_s"] is None
    assert found["totals"]["packets_in_per_s"] is None
    assert found["totals"]["loss_in"] is None


def test_a_process_that_was_replaced_has_no_rates_yet() -> None:
    before = sample(10.0, [relay(0, pid=1, packets_received=1000)])

    found = snapshot(sample(11.0, [relay(0, pid=2, packets_received=5)]), before)

    assert found["relays"][0]["packets_in_per_s"] is None


def test_cpu_and_memory_are_those_of_each_process() -> None:
    before = sample(10.0, use={100: Use(1.0, 5 << 20), 200: Use(2.0, 7 << 20)})
    now = sample(12.0, use={100: Use(1.5, 5 << 20), 200: Use(3.0, 8 << 20)})

    found = snapshot(now, before)

    assert found["relays"][0]["cpu_percent"] == 25
    assert found["transceivers"][0]["rss_bytes"] == 8 << 20
    assert found["totals"]["cpu_percent"] == 75
    assert found["totals"]["rss_bytes"] == 13 << 20


def test_lateness_is_of_the_frames_since_the_last_look() -> None:
    before = sample(10.0, figures={0: told(0, [0, 0, 100, 0])})
    now = sample(11.0, figures={0: told(0, [100, 0, 100, 0])})

    found = snapshot(now, before)["transceivers"][0]

    assert found["lateness_p50_ms"] == 0.5
    assert found["lateness_p99_ms"] == 0.99


def test_lateness_of_a_silent_transceiver_is_what_shared_memory_says() -> None:
    found = snapshot(sample(11.0), sample(10.0))["transceivers"][0]

    assert (found["lateness_p50_ms"], found["lateness_p99_ms"]) == (None, 1.5)


def test_loss_of_all_calls_is_of_what_came_since_the_last_look() -> None:
    before = sample(10.0, sessions=[session(1, packets_in=1000, lost_in=500)])
    now = sample(
        11.0,
        sessions=[
            session(1, packets_in=1045, lost_in=505),
            session(2, packets_in=50, lost_in=0),
        ],
    )

    found = snapshot(now, before)

    assert found["totals"]["loss_in"] == 0.05
    assert [one["loss_in"] for one in found["sessions"]] == [0.3258, 0.0]


def test_a_call_that_has_heard_nothing_has_lost_nothing() -> None:
    found = snapshot(sample(1.0, sessions=[session(1, packets_in=0, rtt_ms=None)]))

    assert found["sessions"][0]["loss_in"] == 0.0
    assert found["totals"]["rtt_ms"] is None


def test_draining_and_overload_are_told() -> None:
    one = snapshot(sample(1.0, transceivers=[transceiver(0, draining=1)]))["transceivers"][0]
    other = snapshot(sample(1.0, transceivers=[transceiver(0, overloaded=1)]))["transceivers"][0]

    assert (one["draining"], one["overloaded"]) == (True, False)
    assert (other["draining"], other["overloaded"]) == (False, True)


def test_programs_can_read_it() -> None:
    found = snapshot(sample(2.0, sessions=[session(1)]), sample(1.0))

    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("counts", "share", "found"),
    [
        ([0, 0, 0, 0], 0.5, None),
        ([10, 0, 0, 0], 0.5, 0.0005),
        ([5, 5, 0, 0], 0.5, 0.001),
        ([0, 0, 0, 7], 0.99, 0.1),
        ([0, 10, 0, 0], 1.0, 0.01),
    ],
)
def test_quantiles_of_a_histogram(counts: list[int], share: float, found: float | None) -> None:
    assert quantile(BOUNDS, counts, share) == (found and pytest.approx(found))


@given(st.lists(st.integers(0, 1000), min_size=4, max_size=4), st.floats(0, 1))
def test_a_quantile_is_within_the_bounds(counts: list[int], share: float) -> None:
    found = quantile(BOUNDS, counts, share)

    assert (found is None) == (sum(counts) == 0)
    assert found is None or 0 <= found <= BOUNDS[-1]
