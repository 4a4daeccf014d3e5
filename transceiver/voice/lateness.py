"""How late voice frames leave, and what follows from it: cheaper encoding first, then no new calls."""

import math
from operator import add
from typing import Final

BUCKET_S: Final = 0.00025
BUCKETS: Final = 200  # the last one holds all that is later than 50 ms
WINDOW_S: Final = 1.0
WINDOWS: Final = 5  # that count: the last few seconds
MIN_FRAMES: Final = 50  # in a window, else its p99 says nothing

MAX_LOAD_LEVEL: Final = 3
STEP_UP_S: Final = 0.003  # a second with a p99 above it makes encoding cheaper at once
STEP_DOWN_S: Final = 0.0015  # so many seconds below it make it dearer again
STEP_DOWN_WINDOWS: Final = 5

OVERLOADED_S: Final = 0.005  # a p99 above it, so many seconds running: no new calls
OVERLOADED_WINDOWS: Final = 2  # a single stall is no overload
RELIEVED_S: Final = 0.003  # the p99 of all windows below it: new calls again


class Lateness:
    """Histograms of the last seconds; each second that ends is judged."""

    __slots__ = (
        "_calm",
        "_counts",
        "_ends_at",
        "_late",
        "_windows",
        "counts",
        "level",
        "overloaded",
    )

    def __init__(self, now: float) -> None:
        self.level = 0  # of load, 0 to MAX_LOAD_LEVEL
        self.overloaded = False
        self._counts = [0] * BUCKETS  # of the second that runs
        self._windows: list[list[int]] = []  # of those that have ended, newest last
        self._ends_at = now + WINDOW_S
        self.counts = [0] * BUCKETS  # of all seconds that have ended
        self._calm = self._late = 0  # seconds running

    def add(self, lateness_s: float, frames: int = 1) -> None:
        """Frames that left so long after they were due; those never sent count as well."""
        bucket = int(lateness_s / BUCKET_S)
        self._counts[bucket if bucket < BUCKETS else BUCKETS - 1] += frames

    def percentile(self, share: float) -> float:
        """The lateness, in s, that `share` (0 to 1) of the frames of the last seconds kept within."""
        return _percentile([self._counts, *self._windows], share)

    def advance(self, now: float) -> None:
        """Judge the seconds that have ended by `now`."""
        if now < self._ends_at:
            return
        ended = int((now - self._ends_at) / WINDOW_S) + 1
        self._ends_at += ended * WINDOW_S
        # However long it was quiet: so many empty seconds bring everything back to rest.
        for _ in range(min(ended, 1 + STEP_DOWN_WINDOWS * MAX_LOAD_LEVEL + WINDOWS)):
            self._end_window()

    def _end_window(self) -> None:
        newest, self._counts = self._counts, [0] * BUCKETS
        self._windows = [*self._windows[1 - WINDOWS :], newest]
        self.counts = list(map(add, self.counts, newest))
        p99 = _percentile([newest], 0.99) if sum(newest) >= MIN_FRAMES else 0.0
        self._step(p99)
        self._late = self._late + 1 if p99 > OVERLOADED_S else 0
        if self._late >= OVERLOADED_WINDOWS:
            self.overloaded = True
        elif self.overloaded and self.percentile(0.99) < RELIEVED_S:
            self.overloaded = False

    def _step(self, p99: float) -> None:
        if p99 > STEP_UP_S:
            self._calm = 0
            self.level = min(self.level + 1, MAX_LOAD_LEVEL)
            return
        self._calm = self._calm + 1 if p99 < STEP_DOWN_S else 0
        if self._calm >= STEP_DOWN_WINDOWS:
            self._calm = 0
            self.level = max(self.level - 1, 0)


def _percentile(windows: list[list[int]], share: float) -> float:
    counts = [sum(column) for column in zip(*windows, strict=True)]
    wanted = math.ceil(share * sum(counts))
    below = 0
    for bucket, count in enumerate(counts):
        below += count
        if below >= wanted > 0:
            return (bucket + 1) * BUCKET_S
    return 0.0
