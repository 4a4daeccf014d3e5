"""The soak's books and slopes: what grows is found, what is noise is not, no packet is counted twice."""

import importlib.util
import random
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest


def load(name: str) -> Any:
    """By its file: the checkout is on no path, or `import relay` would work beside `voicerelay.relay`."""
    path = Path(__file__).parents[2] / "bench" / "soak" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"soak_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module


trend, books, plan = load("trend"), load("books"), load("plan")


def life(
    begin: float, end: float, base: float, per_hour: float = 0.0, noise: float = 0.0
) -> list[tuple[float, float]]:
    chance = random.Random(f"{begin} {base}")
    return [
        (at, base + (at - begin) * per_hour / 3600 + chance.gauss(0, noise))
        for at in range(int(begin), int(end))
    ]


def test_a_straight_line_has_its_slope_and_no_error() -> None:
    grown = trend.growth([life(0, 600, 50.0, per_hour=12.0)])

    assert grown.slope == pytest.approx(12.0)
    assert grown.error == pytest.approx(0.0, abs=1e-6)
    assert grown.over(1800) == pytest.approx(6.0)


def test_lives_that_begin_at_other_sizes_are_no_growth() -> None:
    grown = trend.growth([life(0, 300, 40.0), life(300, 600, 55.0), life(600, 900, 70.0)])

    assert (grown.slope, grown.lives) == (pytest.approx(0.0), 3)


def test_the_first_seconds_of_a_life_do_not_count() -> None:
    warming = [(float(at), 20.0 + min(at, 25)) for at in range(300)]

    assert trend.growth([warming]).slope == pytest.approx(0.0)
    assert trend.growth([warming], warm_s=0.0).slope > 5


def test_a_life_that_is_only_warmth_says_nothing() -> None:
    assert trend.growth([life(0, 31, 50.0, per_hour=900.0)]) is None


def test_growth_in_noise_is_told_within_its_error() -> None:
    lives = [life(600 * n, 600 * (n + 1), 50.0 + n, per_hour=6.0, noise=0.5) for n in range(3)]

    grown = trend.growth(lives)

    assert abs(grown.slope - 6.0) < 3 * grown.error
    assert grown.error < 2.0


def test_samples_that_are_alike_tell_less_than_they_seem_to() -> None:
    chance, level, walk = random.Random(1), 0.0, []
    for at in range(1000):
        level = 0.95 * level + chance.gauss(0, 0.1)
        walk.append((float(at), 50 + level))
    values = [y for _, y in walk]
    chance.shuffle(values)

    assert (
        trend.growth([walk]).error
        > 3 * trend.growth([list(zip([at for at, _ in walk], values, strict=True))]).error
    )


def relay(pid: int, received: int, forwarded: int, **dropped: int) -> dict[str, Any]:
    return {
        "pid": pid, "index": 0, "packets_received": received, "packets_forwarded": forwarded,
        "socket_overflows": 3, "dropped": dropped,
    }  # fmt: skip


def transceiver(received: int) -> dict[str, Any]:
    return {"pid": 9, "slot": 0, "packets_received": received, "socket_overflows": 0}


def status(relays: list[dict[str, Any]], received: int, **control: int) -> dict[str, Any]:
    return {
        "relays": relays,
        "transceivers": [transceiver(received)],
        "control": {"pid": 5, **control},
    }


def test_a_successor_begins_its_counters_anew_and_the_dead_ones_stay() -> None:
    kept = books.Books()
    kept.take(1.0, status([relay(11, 80, 78, unknown_flow=2)], 78))
    kept.note(1.5, books.Key("relay", 0, 11), relay(11, 100, 95, unknown_flow=2))
    last = status([relay(12, 50, 50)], 145)
    kept.take(3.0, last)

    whole = books.balance(160, kept, last)

    assert [one.unaccounted for one in kept.of("relay")] == [3, 0]
    assert (whole.relayed, whole.forwarded, whole.delivered) == (150, 145, 145)
    assert (whole.overflowed, whole.missing) == (3, 7)  # of the socket, which both have read
    assert whole.missing_inside == 0


def test_what_the_kernel_steers_is_no_relays() -> None:
    kept = books.Books()
    last = status([relay(11, 10, 10)], 100, steered_by_flow=70, steered_by_ufrag=20)
    kept.take(1.0, last)

    whole = books.balance(103, kept, last)

    assert (whole.steered, whole.missing, whole.missing_inside) == (90, 0, 0)
    assert whole.share(1) == pytest.approx(100 / 103)


@pytest.mark.parametrize(
    ("series", "risen"),
    [
        ([(1.0, 0), (2.0, 0)], 0),
        ([(9.0, 0), (10.5, 4), (14.0, 6), (19.0, 6)], 0),  # all near the fault at 10 s
        ([(9.0, 2), (10.5, 4), (14.0, 4), (16.0, 5), (17.0, 6)], 2 + 1),
        ([(1.0, 5), (2.0, 1)], 5 + 1),  # a new round counts from 0
    ],
)
def test_failures_near_a_fault_are_the_faults(series: Any, risen: int) -> None:
    assert books.outside(series, [10.0], after_s=5.0) == risen


def test_faults_come_by_the_seed_in_their_time_and_keep_their_distance() -> None:
    planned = plan.plan_faults(7, 1800.0, 90.0, plan.WITH_TRANSCEIVERS, 2)

    times = [fault.at_s for fault in planned]
    apart = [later - at for at, later in pairwise(times)]

    assert planned == plan.plan_faults(7, 1800.0, 90.0, plan.WITH_TRANSCEIVERS, 2)
    assert planned != plan.plan_faults(8, 1800.0, 90.0, plan.WITH_TRANSCEIVERS, 2)
    assert {fault.kind for fault in planned} == set(plan.WITH_TRANSCEIVERS)
    assert all(plan.QUIET_S <= at <= 1800 - plan.QUIET_S for at in times)
    assert all(45.0 <= gap <= 135.0 for gap in apart)
    assert {fault.number for fault in planned} == {0, 1}
    assert all(fault.number == 0 for fault in planned if fault.kind == "kill control")


def test_a_short_run_has_faults_too() -> None:
    planned = plan.plan_faults(1, 40.0, 10.0, plan.KINDS, 2)

    assert planned
    assert all(10.0 <= fault.at_s <= 30.0 for fault in planned)
