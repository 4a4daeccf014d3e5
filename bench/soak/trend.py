"""Whether a figure grows: one slope for all lives of a role's processes, and how sure it is. Pure."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

WARM_S = 30.0  # of each life, left out: pools fill, pages are touched
MIN_SAMPLES = 3  # of a life
MOST_ALIKE = 0.99  # of the correlation of neighbours
HOUR_S = 3600.0
SURE = 2.0  # standard errors: 95 %

Series = Sequence[tuple[float, float]]  # (seconds, figure), rising in time


@dataclass(frozen=True)
class Growth:
    """Units of the figure an hour; error: standard error of the slope. inf where nothing can be told."""

    slope: float
    error: float
    samples: int
    lives: int

    def over(self, seconds: float) -> float:
        """What it grows in that time."""
        return self.slope * seconds / HOUR_S

    def uncertain_over(self, seconds: float) -> float:
        """What of that may be chance."""
        return SURE * self.error * seconds / HOUR_S


def growth(lives: Iterable[Series], warm_s: float = WARM_S) -> Growth | None:
    """Least squares with one slope, and an intercept for each life; None without enough samples.

    Neighbouring samples are alike, so the error is widened as for a first-order autoregression.
    """
    kept = [
        centred(warm) for life in lives if len(warm := without_warmth(life, warm_s)) >= MIN_SAMPLES
    ]
    spread = sum(t * t for life in kept for t, _ in life)
    if not spread:
        return None
    slope = sum(t * y for life in kept for t, y in life) / spread
    rests = [[y - slope * t for t, y in life] for life in kept]
    samples = sum(map(len, rests))
    freedom = samples - len(kept) - 1
    squares = sum(rest * rest for life in rests for rest in life)
    error = math.sqrt(squares / freedom / spread) * _widening(rests) if freedom > 0 else math.inf
    return Growth(slope * HOUR_S, error * HOUR_S, samples, len(kept))


def without_warmth(life: Series, warm_s: float) -> Series:
    """What comes after the first `warm_s` of a life."""
    return [(at, y) for at, y in life if at >= life[0][0] + warm_s]


def centred(life: Series) -> Series:
    """Around the means of its times and figures: that is what an intercept of its own does."""
    time = sum(at for at, _ in life) / len(life)
    mean = sum(y for _, y in life) / len(life)
    return [(at - time, y - mean) for at, y in life]


def _widening(rests: Sequence[Sequence[float]]) -> float:
    squares = sum(rest * rest for life in rests for rest in life)
    if not squares:
        return 1.0
    neighbours = sum(a * b for life in rests for a, b in pairwise(life))
    alike = min(MOST_ALIKE, max(0.0, neighbours / squares))
    return math.sqrt((1 + alike) / (1 - alike))
