"""The search for the largest number of calls finds it, in few steps; the judge names what fails."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest


def load(name: str) -> Any:
    """By its file: the checkout is on no path, or `import relay` would work beside `voicerelay.relay`."""
    path = Path(__file__).parents[2] / "bench" / "capacity" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"capacity_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module


search, judge = load("search"), load("judge")


def tried(found: Any, limit: int) -> list[int]:
    numbers = []
    while (calls := found.next()) is not None:
        numbers.append(calls)
        found.tell(calls, calls <= limit)
    return numbers


@pytest.mark.parametrize("limit", [1, 5, 9, 10, 11, 23, 76, 120, 500, 3333])
def test_the_limit_is_found_within_the_resolution(limit: int) -> None:
    found = search.Search(max_looks=40)

    tried(found, limit)

    assert found.held <= limit <= found.failed - 1
    assert found.failed - found.held <= max(1, 0.04 * found.failed)


@pytest.mark.parametrize("limit", [12, 60, 120, 200])
def test_few_steps_are_enough(limit: int) -> None:
    found = search.Search(max_looks=100)

    numbers = tried(found, limit)

    assert len(numbers) <= search.Search().max_looks


def test_nothing_held_ends_at_one_call() -> None:
    found = search.Search()

    numbers = tried(found, 0)

    assert (numbers[0], numbers[-1], found.held) == (10, 1, 0)


def test_steps_and_numbers_are_bounded() -> None:
    assert len(tried(search.Search(max_looks=3), 10_000)) == 3
    assert tried(search.Search(ceiling=25), 10_000)[-1] == 25


def heard(**changed: Any) -> Any:
    usual = {
        "up": 20, "lost": 0, "refused": {}, "in_min": 50.0, "out_min": 50.0,
        "late_p99_ms": 1.0, "lag_p99_ms": 1.0, "cpu": 0.1,
    }  # fmt: skip
    return judge.Heard(**usual | changed)


def test_calls_on_schedule_have_no_objection() -> None:
    assert judge.objections(20, 5.0, heard()) == []


@pytest.mark.parametrize(
    ("late_ms", "changed", "said"),
    [
        (5.25, {}, "frames late by 5.2 ms (p99)"),
        (1.0, {"in_min": 49.4}, "49.4 frames/s from the server at one call"),
        (1.0, {"out_min": 30.0}, "30.0 frames/s to the server at one call"),
        (1.0, {"lost": 2}, "2 calls lost"),
        (1.0, {"up": 18, "refused": {"HTTP 503": 2}}, "18 of 20 calls up (2 HTTP 503)"),
        (1.0, {"lag_p99_ms": 7.0}, "the callers late by 7.0 ms themselves (p99)"),
    ],
)
def test_what_fails_is_named(late_ms: float, changed: dict[str, Any], said: str) -> None:
    assert judge.objections(20, late_ms, heard(**changed)) == [said]


def test_callers_of_several_processes_are_one_crowd() -> None:
    part = {
        "up": 10, "lost": 1, "refused": {"busy": 1}, "in_min": 50.0, "out_min": 49.9,
        "late_p99_ms": 1.0, "lag_p99_ms": 2.0, "cpu": 0.1,
    }  # fmt: skip

    whole = judge.Heard.of([part, part | {"in_min": 48.0, "lag_p99_ms": 3.0}])

    assert (whole.up, whole.lost, whole.refused) == (20, 2, {"busy": 2})
    assert (whole.in_min, whole.lag_p99_ms, whole.cpu) == (48.0, 3.0, 0.2)
