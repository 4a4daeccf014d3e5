"""What goes wrong and when: the seed decides alone. Pure."""

import random
from collections.abc import Sequence
from typing import NamedTuple

QUIET_S = 30.0  # at the beginning and at the end
KINDS = ("kill relay", "stop relay", "kill control")
WITH_TRANSCEIVERS = (*KINDS, "kill transceiver")


class Fault(NamedTuple):
    at_s: float
    kind: str
    number: int


def plan_faults(
    seed: int, duration_s: float, every_s: float, kinds: Sequence[str], processes: int
) -> list[Fault]:
    """About one each `every_s`, never closer than half of that; `processes` of each role may be hit."""
    chance = random.Random(f"{seed} faults")
    quiet_s = min(QUIET_S, duration_s / 4)
    planned = []
    at_s = quiet_s + every_s * chance.uniform(0, 0.5)
    while at_s < duration_s - quiet_s:
        kind = chance.choice(kinds)
        planned.append(Fault(at_s, kind, 0 if "control" in kind else chance.randrange(processes)))
        at_s += every_s * chance.uniform(0.5, 1.5)
    return planned
