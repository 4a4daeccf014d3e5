"""The simulation behind docs/scaling.md keeps its own books."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest


def load_simulation() -> Any:
    """By its file: the checkout is on no path, or `import relay` would work beside `voicerelay.relay`."""
    path = Path(__file__).parents[2] / "bench" / "scaling" / "ingress.py"
    spec = importlib.util.spec_from_file_location("scaling_ingress", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module


simulation = load_simulation()
HOSTS, CALLS = 8, 2000


@pytest.mark.parametrize("event", ["drain", "join"])
@pytest.mark.parametrize("kind", simulation.INGRESS)
def test_only_a_death_loses_calls(kind: str, event: str) -> None:
    assert simulation.change(kind, HOSTS, CALLS, event, cached=False).lost == 0


@pytest.mark.parametrize("kind", simulation.INGRESS)
def test_a_death_loses_its_hosts_share(kind: str) -> None:
    assert simulation.change(kind, HOSTS, CALLS, "loss", cached=False).lost == pytest.approx(
        1 / 8, abs=0.03
    )


@pytest.mark.parametrize(
    ("kind", "moved"),
    [(simulation.MODULO, 7 / 8), (simulation.RESILIENT, 1 / 8), (simulation.OWN_ADDRESS, 0.0)],
)
def test_what_moves_is_what_the_hash_moves(kind: str, moved: float) -> None:
    seen = simulation.change(kind, HOSTS, CALLS, "drain", cached=False)

    assert seen.moved == pytest.approx(moved, abs=0.04)


def test_nobody_is_silent_longer_than_until_the_next_check() -> None:
    timing = simulation.Timing()

    seen = simulation.change(simulation.MODULO, HOSTS, CALLS, "drain", cached=False, timing=timing)

    assert seen.silence_p50_ms < seen.silence_p99_ms <= timing.check_s * 1000


def test_the_same_seed_sees_the_same() -> None:
    assert simulation.change(simulation.RESILIENT, HOSTS, CALLS, "join", True) == simulation.change(
        simulation.RESILIENT, HOSTS, CALLS, "join", True
    )


def test_without_a_deadline_that_cuts_nobody_is_cut_short() -> None:
    seen = simulation.rolling_upgrade(4, 1, deadline_s=1e9, mean_call_s=60.0, restart_s=5.0)

    assert seen.ended == 0
    assert seen.capacity_left == 0.75
