"""When a relay waits for more packets: at high rates always, for a lone packet never."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicerelay.relay.pace import DEFAULT_COALESCE_S, IDLE_WAITS, MAX_COALESCE_S, Pace

NOW = 5000.0
RATES = st.floats(10.0, 1e6)


def answers(pace: Pace, rate: float, looks: int, start: float = NOW) -> list[bool]:
    """What it says at looks of one packet each, evenly spread."""
    return [pace.worth_waiting(1, start + number / rate) for number in range(looks)]


def test_a_lone_packet_never_waits() -> None:
    assert not Pace(DEFAULT_COALESCE_S).worth_waiting(1, NOW)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 64), st.floats(0.0, 1.0)), max_size=50))
def test_without_a_wait_there_is_no_waiting(looks: list[tuple[int, float]]) -> None:
    pace = Pace(0.0)
    times = itertools.accumulate((elapsed for _, elapsed in looks), initial=NOW)

    assert not any(pace.worth_waiting(n, at) for (n, _), at in zip(looks, times, strict=False))


@pytest.mark.parametrize(
    ("per_wait", "waits"), [(0.5, False), (0.9, False), (1.2, True), (9, True)]
)
@pytest.mark.parametrize("coalesce_s", [50e-6, DEFAULT_COALESCE_S, MAX_COALESCE_S])
def test_waiting_is_worth_it_when_a_wait_brings_a_packet(
    per_wait: float, waits: bool, coalesce_s: float
) -> None:
    # given packets at so many for each wait
    found = answers(Pace(coalesce_s), per_wait / coalesce_s, 60)

    # then it settles on waiting, or on not waiting
    assert set(found[30:]) == {waits}


def test_after_a_pause_the_old_rate_says_nothing() -> None:
    # given a busy relay
    pace = Pace(DEFAULT_COALESCE_S)
    assert answers(pace, 50_000, 60)[-1]

    # when a packet comes after a pause
    pause = NOW + 60 / 50_000 + DEFAULT_COALESCE_S * (IDLE_WAITS + 1)

    # then it is a lone packet
    assert not pace.worth_waiting(1, pause)


def test_a_look_that_brings_nothing_ends_the_waiting_soon() -> None:
    pace = Pace(DEFAULT_COALESCE_S)
    answers(pace, 50_000, 60)
    last = NOW + 59 / 50_000

    found = [pace.worth_waiting(0, last + n * DEFAULT_COALESCE_S) for n in range(1, 15)]

    assert not found[-1]


def test_looks_at_the_same_instant_are_no_error() -> None:
    pace = Pace(DEFAULT_COALESCE_S)

    for _ in range(3):
        pace.worth_waiting(64, NOW)
