"""What `top` draws: fills the terminal exactly, whatever its size and the instance."""

import pytest
from rich.text import Text

from tests.support.looks import relay, sample, session, transceiver
from voicerelay.cli.top.snapshot import Json, snapshot
from voicerelay.cli.top.state import SORTS, State
from voicerelay.cli.top.view import (
    HISTORY,
    MIN_HEIGHT,
    MIN_WIDTH,
    History,
    draw,
    sort_sessions,
    sparkline,
)


def shown(relays: int = 2, transceivers: int = 2, sessions: int = 30) -> Json:
    now, before = (
        sample(
            at,
            [relay(n) for n in range(relays)],
            [transceiver(n) for n in range(transceivers)],
            [session(n) for n in range(sessions)],
        )
        for at in (2.0, 1.0)
    )
    return snapshot(now, before)


def plain(lines: list[Text]) -> list[str]:
    return [line.plain for line in lines]


@pytest.mark.parametrize(
    ("width", "height"), [(80, 24), (200, 60), (MIN_WIDTH, MIN_HEIGHT), (20, 5), (80, 1)]
)
@pytest.mark.parametrize("many", [1, 64])
@pytest.mark.parametrize("help_", [False, True])
def test_lines_fill_the_terminal_exactly(width: int, height: int, many: int, help_: bool) -> None:
    lines = draw(shown(many, many), History(), State(help=help_), width, height)

    assert len(lines) == height
    assert max(len(line) for line in lines) <= width


def test_80_by_24_shows_processes_and_calls() -> None:
    text = plain(draw(shown(), History(), State(), 80, 24))

    assert sum(line.startswith(("relay ", "transceiver ")) for line in text) == 6
    assert sum(line.startswith("0000") for line in text) >= 8
    assert "? help" in text[-1]


def test_of_many_processes_the_busy_ones_are_shown() -> None:
    text = plain(draw(shown(relays=64), History(), State(), 80, 24))

    assert "and 62 more with less to do" in text


def test_scrolling_ends_at_the_last_call() -> None:
    text = plain(draw(shown(sessions=3), History(), State(offset=1000), 80, 24))

    assert sum(line.startswith("0000") for line in text) == 3


def test_what_is_old_says_so() -> None:
    text = plain(draw(shown(), History(), State(), 80, 24, "gone for 3 s"))

    assert "gone for 3 s" in text[0]
    assert "gone" in plain(draw(None, History(), State(), 80, 24, "gone"))[0]
    assert "looking" in plain(draw(None, History(), State(), 80, 24))[0]


def test_drops_are_told_by_reason_the_growing_first() -> None:
    before = sample(1.0, [relay(0, dropped={"old": 900, "new": 0})])
    now = sample(2.0, [relay(0, dropped={"old": 900, "new": 7})])

    line = plain(draw(snapshot(now, before), History(), State(), 80, 24))[4]

    assert line.split() == ["drops", "new", "7", "+7/s", "old", "900"]


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("descending", [True, False])
def test_calls_without_the_figure_come_last(sort: str, descending: bool) -> None:
    calls = [
        {"id": str(n), "short_id": str(n), "age_s": n, "rtt_ms": n, "loss_in": n, "jitter_ms": n}
        | {"lateness_p99_ms": n}
        for n in (2, 1, 3)
    ]
    unknown = dict.fromkeys(calls[0]) | {"id": "4", "short_id": None}

    ordered = sort_sessions([unknown, *calls], sort, descending)

    known = [int(one["id"]) for one in ordered[:3]]
    assert known == sorted(known, reverse=descending)
    assert ordered[3] is unknown or ordered[3]["id"] == "4"


def test_the_sorted_column_is_marked() -> None:
    text = "\n".join(plain(draw(shown(), History(), State(sort="rtt"), 80, 24)))

    assert "rtt ms↓" in text


def test_sparklines_go_from_zero_to_the_highest() -> None:
    assert sparkline([0, 5, 10]) == "▁▅█"
    assert sparkline([0, 0]) == "▁▁"
    assert sparkline([None, 1]) == " █"
    assert sparkline([]) == ""


def test_the_history_is_bounded() -> None:
    history = History()
    for n in range(HISTORY + 5):
        history.add({"sessions": n})

    assert len(history.of("sessions", HISTORY + 5).strip()) == HISTORY
    assert len(history.of("sessions", 10)) == 10
