"""Histograms: quantiles right within 1 %, sums as if all had been counted in one place."""

import json
import math
import random

from hypothesis import given
from hypothesis import strategies as st

from voicerelay.cli.loadtest.histogram import SMALLEST_S, Histogram


def of(*values: float) -> Histogram:
    made = Histogram()
    for value in values:
        made.add(value)
    return made


def test_quantiles_are_right_within_one_percent() -> None:
    chance = random.Random(3)
    values = sorted(chance.lognormvariate(-4, 1) for _ in range(5000))

    found = of(*values)

    for share in (0.01, 0.5, 0.95, 0.99):
        exact = values[math.ceil(share * 5000) - 1]
        quantile = found.quantile(share)
        assert quantile is not None
        assert abs(quantile / exact - 1) < 0.0101
    assert found.largest == values[-1]


def test_without_values_there_is_no_quantile() -> None:
    assert Histogram().quantile(0.5) is None
    assert Histogram().shares() == []


def test_what_is_too_small_counts_as_nothing() -> None:
    assert of(0.0, SMALLEST_S / 2, -1.0).quantile(1) == 0.0


def test_no_quantile_is_above_the_largest_value() -> None:
    assert of(0.3).quantile(1) <= 0.3  # type: ignore[operator]


@given(st.lists(st.floats(0, 100)), st.lists(st.floats(0, 100)))
def test_parts_add_up_also_through_json(one: list[float], other: list[float]) -> None:
    whole = of(*one)

    whole.merge(Histogram.from_json(json.loads(json.dumps(of(*other).to_json()))))

    assert whole.counts == of(*one, *other).counts
    assert whole.largest == of(*one, *other).largest


def test_the_curve_rises_to_the_whole() -> None:
    points = of(0.001, 0.002, 0.002, 0.5).shares()

    assert [round(share, 2) for _, share in points] == [0.25, 0.75, 1.0]
    assert points == sorted(points)
