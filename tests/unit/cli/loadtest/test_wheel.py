"""The one timer: everybody once in 20 ms, spread evenly, bounded when the process was away."""

import itertools
from collections import Counter

from voicerelay.cli.loadtest.wheel import MAX_CATCH_UP, SLOTS, TICK_S, Wheel


def test_each_has_its_turn_once_in_20_ms() -> None:
    wheel: Wheel[str] = Wheel(100.0)
    for name in "abcdefg":
        wheel.add(name)

    turns = [(at, name) for at, names in wheel.due(100.999) for name in names]

    times = {name: [at for at, who in turns if who == name] for name in "abcdefg"}
    for of_one in times.values():
        steps = {round(b - a, 6) for a, b in itertools.pairwise(of_one)}
        assert steps == {0.02}


def test_they_are_spread_evenly() -> None:
    wheel: Wheel[int] = Wheel(0.0)
    for number in range(3 * SLOTS):
        wheel.add(number)

    sizes = [len(names) for _, names in wheel.due(0.02 - TICK_S / 2)]

    assert sizes == [3] * SLOTS


def test_who_has_gone_has_no_turn() -> None:
    wheel: Wheel[str] = Wheel(0.0)
    wheel.add("a")
    wheel.add("b")

    wheel.remove("a")
    wheel.remove("a")

    assert (len(wheel), list(wheel), "a" in wheel, "b" in wheel) == (1, ["b"], False, True)
    assert Counter(name for _, names in wheel.due(0.1) for name in names).keys() == {"b"}


def test_nothing_is_due_before_its_time() -> None:
    wheel: Wheel[str] = Wheel(5.0)
    wheel.add("a")

    assert not list(wheel.due(4.9))
    assert len(list(wheel.due(5.0))) == 1
    assert not list(wheel.due(5.0))


def test_a_long_absence_is_not_made_up_for_but_counted() -> None:
    wheel: Wheel[str] = Wheel(0.0)

    ticks = list(wheel.due(10.0))

    assert len(ticks) <= MAX_CATCH_UP + 1
    assert wheel.left_out == round(10.0 / TICK_S) - MAX_CATCH_UP
