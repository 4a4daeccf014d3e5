"""Counts in fixed buckets: cheap to add to, and whole processes can be added up. No clock."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any


class Histogram:
    """`bounds`: upper ends of the buckets, ascending, in seconds; one more bucket has all above."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def snapshot(self) -> dict[str, Any]:
        """As JSON has it; counts are of each bucket alone."""
        return {"bounds": self.bounds, "counts": tuple(self.counts), "sum": round(self.sum, 6)}


def coarser(counts: Sequence[int], width_s: float, bounds: Sequence[float]) -> Histogram:
    """A histogram of equal buckets, of which the last is open, in fewer of them.

    Each count stands for the middle of its bucket: the sum is as good as that.
    """
    made = Histogram(bounds)
    for index, count in enumerate(counts):
        if count:
            made.observe((index + 0.5) * width_s, count)
    return made
