"""What a fault was to show and what it showed: targets of the design, figures of the run."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One target. `most` and `measured` in `unit`; met when measured is not above most (nor below `least`)."""

    what: str
    measured: float
    most: float
    unit: str = ""
    least: float = -math.inf

    @property
    def met(self) -> bool:
        return self.least <= self.measured <= self.most

    @property
    def target(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        if self.least == self.most:
            return f"{self.most:.10g}{unit}"
        if self.most == math.inf:
            return f"at least {self.least:.10g}{unit}"
        return f"at most {self.most:.10g}{unit}"

    @property
    def seen(self) -> str:
        digits = f"{self.measured:.0f}" if abs(self.measured) >= 10 else f"{self.measured:.3g}"
        return f"{digits} {self.unit}".strip()


def exactly(what: str, measured: float, wanted: float, unit: str = "") -> Check:
    return Check(what, measured, wanted, unit, wanted)


def at_most(what: str, measured: float, most: float, unit: str = "") -> Check:
    return Check(what, measured, most, unit)


def at_least(what: str, measured: float, least: float, unit: str = "") -> Check:
    return Check(what, measured, math.inf, unit, least)


def worst(rounds: list[list[Check]]) -> list[Check]:
    """Of each target the round that comes nearest to missing it, or misses it most."""

    def margin(check: Check) -> float:
        return min(check.most - check.measured, check.measured - check.least)

    return [min(checks, key=margin) for checks in zip(*rounds, strict=True)]
