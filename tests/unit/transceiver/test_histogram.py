"""Fixed buckets: what falls where, and what is left of finer ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicerelay.transceiver.histogram import Histogram, coarser

BOUNDS = (0.01, 0.1)


def test_a_value_counts_in_the_first_bucket_whose_end_it_does_not_pass() -> None:
    made = Histogram(BOUNDS)

    for value in (0.0, 0.01, 0.011, 0.1, 5.0):
        made.observe(value)

    told = made.snapshot()
    assert told["counts"] == (2, 2, 1)
    assert told["sum"] == pytest.approx(5.121)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=300))
def test_no_count_is_lost_when_buckets_become_fewer(counts: list[int]) -> None:
    assert sum(coarser(counts, 0.001, BOUNDS).counts) == sum(counts)


def test_fine_buckets_fall_into_the_coarse_one_that_holds_them() -> None:
    # given buckets of 5 ms, the last one open
    made = coarser([1, 2, 4, 8], 0.005, BOUNDS)

    assert made.counts == [3, 12, 0]
    assert made.sum == pytest.approx(1 * 0.0025 + 2 * 0.0075 + 4 * 0.0125 + 8 * 0.0175)
