"""How often somebody may ask."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicerelay.transceiver.signalling.buckets import MAX_BUCKETS, Buckets, Rate

RATE = Rate(burst=3, per_s=2.0)


def test_so_many_at_once_then_so_many_a_second() -> None:
    buckets = Buckets()

    at_once = [buckets.take("a", RATE, 0.0) for _ in range(5)]

    assert at_once == [0, 0, 0, 0.5, 0.5]
    assert buckets.take("a", RATE, 0.25) == pytest.approx(0.25)
    assert buckets.take("a", RATE, 0.5) == 0
    assert buckets.take("a", RATE, 0.5) > 0


def test_a_pause_fills_up_to_the_burst_and_no_more() -> None:
    buckets = Buckets()
    for _ in range(3):
        buckets.take("a", RATE, 0.0)

    later = [buckets.take("a", RATE, 1000.0) for _ in range(4)]

    assert [wait == 0 for wait in later] == [True, True, True, False]


def test_everybody_has_a_bucket_of_their_own() -> None:
    buckets = Buckets()
    for _ in range(4):
        buckets.take("a", RATE, 0.0)

    assert buckets.take("b", RATE, 0.0) == 0


def test_strangers_do_not_fill_the_memory() -> None:
    buckets = Buckets()

    for number in range(MAX_BUCKETS + 10):
        buckets.take(number, RATE, 0.0)

    assert len(buckets) == MAX_BUCKETS


@given(st.lists(st.floats(0, 5), max_size=100))
def test_never_more_than_the_rate_allows(pauses: list[float]) -> None:
    buckets, now, allowed = Buckets(), 0.0, 0
    for pause in pauses:
        now += pause
        allowed += buckets.take("a", RATE, now) == 0

    assert allowed <= RATE.burst + RATE.per_s * now + 1e-6
