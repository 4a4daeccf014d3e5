"""The largest number of calls that is held: up in steps until one fails, then by halves. Pure."""

import math
from dataclasses import dataclass

MIN_STEP = 1


@dataclass
class Search:
    """Ask `next`, try, `tell`; ends after `max_looks`, at `ceiling`, or with the limit known to `resolution`."""

    start: int = 10
    factor: float = 1.5
    resolution: float = 0.04  # share of the number that failed
    max_looks: int = 14
    ceiling: int = 10_000
    held: int = 0  # the largest number so far
    failed: int | None = None  # the smallest
    looks: int = 0

    def next(self) -> int | None:
        """The number to try; None when enough is known."""
        if self.looks >= self.max_looks or self.held >= self.ceiling:
            return None
        if self.failed is None:
            return min(
                self.ceiling, math.ceil(self.held * self.factor) if self.held else self.start
            )
        if self.failed - self.held <= max(MIN_STEP, self.resolution * self.failed):
            return None
        return (self.held + self.failed) // 2

    def tell(self, calls: int, held: bool) -> None:
        """What trying `calls` has shown."""
        self.looks += 1
        if held:
            self.held = max(self.held, calls)
        else:
            self.failed = calls if self.failed is None else min(self.failed, calls)
