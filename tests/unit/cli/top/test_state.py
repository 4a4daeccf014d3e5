"""Keys of `top`: what each makes of the state, and how a terminal spells them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicerelay.cli.top.state import HELP, INTERVALS_S, SORTS, State, keys_of, press


def after(keys: list[str], state: State | None = None) -> State:
    state = state or State()
    for key in keys:
        state = press(state, key)
    return state


@pytest.mark.parametrize("key", ["q", "ctrl-c"])
def test_quit(key: str) -> None:
    assert after([key]).quit


def test_pause_and_go_on() -> None:
    assert after(["p"]).paused
    assert not after(["p", " "]).paused


def test_every_column_can_be_sorted_by_and_the_order_turned_round() -> None:
    seen = [after(["s"] * n).sort for n in range(len(SORTS) + 1)]

    assert seen == [*SORTS, SORTS[0]]
    assert after(["r"]).descending is False
    assert after(["j", "s"]).offset == 0


def test_scrolling_stops_at_the_first_call() -> None:
    assert after(["j", "down", "k"]).offset == 1
    assert after(["k", "up", "page-up"]).offset == 0
    assert after(["page-down", "g"]).offset == 0


def test_the_interval_stays_among_those_offered() -> None:
    assert after(["+"] * 20).interval_s == INTERVALS_S[0]
    assert after(["-"] * 20).interval_s == INTERVALS_S[-1]
    assert after(["-"], State(interval_s=1.5)).interval_s == 2.0


def test_any_key_leaves_the_help_and_q_quits_from_there() -> None:
    shown = after(["?"])

    assert shown.help
    assert after(["p"], shown) == State()
    assert after(["q"], shown).quit


def test_every_key_of_the_help_does_something() -> None:
    state = State(offset=3)

    for keys, _ in HELP:
        for key in keys.split():
            assert press(state, key) != state, key


def test_a_terminal_sends_sequences() -> None:
    assert keys_of("s\x1b[A\x1b[5~q") == ["s", "up", "page-up", "q"]
    assert keys_of("\x03") == ["ctrl-c"]
    assert keys_of("j\x1b[99z") == ["j"]
    assert keys_of("") == []


@given(st.text(max_size=20))
def test_any_text_is_keys(text: str) -> None:
    state = after(keys_of(text))

    assert state.sort in SORTS
    assert state.offset >= 0
