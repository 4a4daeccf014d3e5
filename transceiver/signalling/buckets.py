"""How often somebody may ask: token buckets, as many as a bound allows. Pure."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import NamedTuple

MAX_BUCKETS = 10_000


class Rate(NamedTuple):
    """So many at once, and so many a second for ever."""

    burst: int
    per_s: float


class Buckets:
    """One bucket each; the longest unused goes when there are too many, and is full when it returns."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, who: Hashable, rate: Rate, now: float) -> float:
        """0 when it may be; else the seconds until it may."""
        left, at = self._buckets.pop(who, (float(rate.burst), now))
        left = min(rate.burst, left + (now - at) * rate.per_s)
        missing = max(0.0, 1 - left)
        self._buckets[who] = (left if missing else left - 1, now)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return missing / rate.per_s
