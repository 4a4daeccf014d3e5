"""When calls begin and end: the shapes of load. Pure; the seed decides alone."""

import random
from collections.abc import Iterator
from typing import Final, NamedTuple

SCENARIOS: Final = ("steady", "ramp", "churn", "spike")
RAMP_SHARE = 0.75  # of the duration, in which all calls of a ramp begin
SPIKE_FROM, SPIKE_TO = 0.4, 0.75  # of the duration: when the other half of the calls is there
SPIKE_S = 1.0  # in which they all begin
MIN_HOLD_S = 1.0
CHURN_LIVES = 4  # calls that follow each other in one place, about
MAX_CALLS_IN_ALL = 100_000


class PlannedCall(NamedTuple):
    """Seconds since the test began."""

    number: int
    begin_s: float
    end_s: float


def plan_calls(
    scenario: str, calls: int, duration_s: float, rate: float, seed: int
) -> list[PlannedCall]:
    """All calls, in the order of their beginnings. rate: beginnings a second, at most.

    steady: as fast as the rate allows, until the end. ramp: evenly over most of the time. churn: as steady,
    but each call ends early and another takes its place. spike: half of them steady, half in between, at once.
    """
    times = _TIMES[scenario](calls, duration_s, rate, random.Random(seed))
    kept = [(begin, min(end, duration_s)) for begin, end in times if begin < duration_s]
    kept.sort()
    return [PlannedCall(n, begin, end) for n, (begin, end) in enumerate(kept[:MAX_CALLS_IN_ALL])]


Times = Iterator[tuple[float, float]]


def _steady(calls: int, duration_s: float, rate: float, _chance: random.Random) -> Times:
    for number in range(calls):
        yield number / rate, duration_s


def _ramp(calls: int, duration_s: float, rate: float, _chance: random.Random) -> Times:
    step = max(1 / rate, RAMP_SHARE * duration_s / calls)
    for number in range(calls):
        yield number * step, duration_s


def _churn(calls: int, duration_s: float, rate: float, chance: random.Random) -> Times:
    # No place changes hands faster than the rate allows for all of them.
    hold_s = max(MIN_HOLD_S, duration_s / CHURN_LIVES, calls / rate)
    for number in range(calls):
        begin = number / rate
        while begin < duration_s:
            end = begin + hold_s * chance.uniform(0.5, 1.5)
            yield begin, end
            begin = end + 1 / rate


def _spike(calls: int, duration_s: float, rate: float, chance: random.Random) -> Times:
    ground = calls // 2
    yield from _steady(ground, duration_s, rate, chance)
    for _ in range(calls - ground):
        begin = SPIKE_FROM * duration_s + chance.uniform(0, SPIKE_S)
        yield begin, max(begin, SPIKE_TO * duration_s)


_TIMES = {"steady": _steady, "ramp": _ramp, "churn": _churn, "spike": _spike}
