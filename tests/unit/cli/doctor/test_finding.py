"""Findings are counted by their state."""

from voicerelay.cli.doctor.finding import State, count, fail, ok, warn


def test_each_state_is_counted() -> None:
    assert count([]) == {"ok": 0, "warn": 0, "fail": 0}

    counts = count([ok("a", "x"), ok("b", "x"), warn("c", "x", "y"), fail("d", "x", "y")])

    assert counts == {"ok": 2, "warn": 1, "fail": 1}
    assert counts[State.FAIL] == 1
