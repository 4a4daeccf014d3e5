"""Many times in little room: counts in buckets 2 % wide, which several processes can add up. Pure."""

import math
from collections import Counter
from collections.abc import Mapping

SMALLEST_S = 1e-5
STEP = 1.02  # so a quantile is right within 1 %
_LOG_STEP = math.log(STEP)
_OFFSET = math.log(SMALLEST_S)


class Histogram:
    """Of durations in seconds; all below SMALLEST_S are one."""

    __slots__ = ("counts", "largest")

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self.largest = 0.0

    def __len__(self) -> int:
        return self.counts.total()

    def add(self, seconds: float) -> None:
        index = int((math.log(seconds) - _OFFSET) / _LOG_STEP) + 1 if seconds > SMALLEST_S else 0
        self.counts[index] += 1
        self.largest = max(self.largest, seconds)

    def merge(self, other: "Histogram") -> None:
        self.counts.update(other.counts)
        self.largest = max(self.largest, other.largest)

    def quantile(self, share: float) -> float | None:
        """The value that `share` (0..1) of all do not exceed, within 1 %; None without values."""
        total = len(self)
        if not total:
            return None
        wanted, seen = max(1, math.ceil(share * total)), 0
        for index in sorted(self.counts):
            seen += self.counts[index]
            if seen >= wanted:
                return min(_middle(index), self.largest)
        return self.largest

    def shares(self) -> list[tuple[float, float]]:
        """(seconds, share of all up to there), rising: the curve of the distribution."""
        total, seen = len(self), 0
        points = []
        for index in sorted(self.counts):
            seen += self.counts[index]
            points.append((_middle(index), seen / total))
        return points

    def to_json(self) -> dict[str, float]:
        return {str(index): count for index, count in self.counts.items()} | {"max": self.largest}

    @classmethod
    def from_json(cls, told: Mapping[str, float]) -> "Histogram":
        made = cls()
        made.largest = told["max"]
        made.counts.update({int(i): int(count) for i, count in told.items() if i != "max"})
        return made


def _middle(index: int) -> float:
    return SMALLEST_S * STEP ** (index - 0.5) if index else 0.0
