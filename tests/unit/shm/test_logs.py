"""Logs: one line a reason and second, and three ways to write it."""

import json
import logging
import os
import sys
from collections.abc import Iterator
from typing import TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicerelay.shm import logs
from voicerelay.shm.logs import (
    INTERVAL_S,
    MAX_REASON_CHARS,
    MAX_REASONS,
    Lines,
    Throttle,
    ThrottleFilter,
    chosen,
)


def record(
    message: str, *args: object, name: str = "voicerelay.session", **fields: object
) -> logging.LogRecord:
    made = logging.LogRecord(name, logging.WARNING, "x.py", 1, message, args, None)
    made.created = 1_700_000_000.25
    vars(made).update(fields)
    return made


# ---- how often -----------------------------------------------------------------------------------


def test_one_line_of_a_reason_passes_and_the_next_tells_how_many_were_held_back() -> None:
    throttle = Throttle()

    admitted = [throttle.admit("full", now) for now in (5.0, 5.1, 5.9, 5.0 + INTERVAL_S, 9.0)]

    assert admitted == [0, None, None, 2, 0]


def test_reasons_do_not_wait_for_each_other() -> None:
    throttle = Throttle()

    assert [throttle.admit(reason, 1.0) for reason in ("a", "b", "a", "b")] == [0, 0, None, None]


def test_reasons_are_bounded_and_what_is_forgotten_is_counted() -> None:
    throttle = Throttle()
    for _ in range(3):
        throttle.admit("first", 0.0)

    for number in range(MAX_REASONS):
        throttle.admit(number, 0.0)

    assert throttle.forgotten == 2
    assert throttle.admit("first", 0.0) == 0
    assert throttle.admit(MAX_REASONS - 1, 0.0) is None


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 0.6)), max_size=60))
def test_every_line_is_told_or_counted(said: list[tuple[int, float]]) -> None:
    throttle = Throttle()
    now, passed, told = 0.0, 0, 0

    for reason, later in said:
        now += later
        held = throttle.admit(reason, now)
        passed, told = passed + (held is not None), told + (held or 0)
    last = [throttle.admit(reason, now + 2 * INTERVAL_S) or 0 for reason in range(4)]

    assert passed + told + sum(last) == len(said)


def test_what_ended_for_another_reason_is_another_line() -> None:
    one = ThrottleFilter()

    passed = [
        one.filter(record("ended: %s", reason, reason=reason)) for reason in ("a", "b", "a", "a")
    ]

    assert passed == [True, True, False, False]


def test_a_reason_is_known_by_its_first_characters() -> None:
    one = ThrottleFilter()
    long = "x" * MAX_REASON_CHARS

    assert [one.filter(record(text)) for text in (long, f"{long}y", long[1:])] == [
        *(True, False, True),
    ]


def test_lines_of_the_users_own_are_left_alone() -> None:
    one = ThrottleFilter()

    assert all(one.filter(record("heard", name="my_agent")) for _ in range(5))


# ---- how it is written ---------------------------------------------------------------------------


def test_text_has_time_level_process_and_message() -> None:
    line = Lines("relay 0", "text").format(record("%s is gone", "control", held_back=3))

    assert line == "2023-11-14T22:13:20.250Z WARNING relay 0: control is gone held_back=3"


def test_fields_are_told_once_in_text_and_always_in_json() -> None:
    made = record("session %s ended", "abc", session="abc", reason="hung up")

    text = Lines("transceiver 1", "text").format(made)
    line = json.loads(Lines("transceiver 1", "json").format(made))

    assert text.endswith("transceiver 1: session abc ended reason=hung up")
    assert line == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "warning",
        "process": "transceiver 1",
        "message": "session abc ended",
        "session": "abc",
        "reason": "hung up",
        "logger": "voicerelay.session",
    }


@pytest.mark.parametrize("form", ["text", "json", "journal"])
def test_a_failure_is_told_whole(form: str) -> None:
    made = record("it failed")
    try:
        raise RuntimeError("because\nof this")
    except RuntimeError:
        made.exc_info = sys.exc_info()

    said = Lines("control", form).format(made)

    assert "Traceback" in said
    assert ("because\\nof this" if form == "json" else "of this") in said
    assert ("\n" in said) == (form != "json")


@pytest.mark.parametrize(
    ("level", "priority"), [(10, 7), (20, 6), (30, 4), (40, 3), (50, 3), (5, 7)]
)
def test_the_journal_is_told_the_priority_of_every_line(level: int, priority: int) -> None:
    made = record("one\ntwo")
    made.levelno, made.levelname = level, "LEVEL"

    said = Lines("control", "journal").format(made)

    assert said == f"<{priority}>LEVEL control: one\n<{priority}>two"


@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::7", "::1", "::ffff:192.0.2.7"])
def test_addresses_in_lines_of_libraries_are_not_told(address: str) -> None:
    made = record("Error handling request from %s", address, name="aiohttp.server")

    said = Lines("transceiver 0", "json").format(made)

    assert "Error handling request from (address)" in said
    assert address not in said


# ---- where ---------------------------------------------------------------------------------------


@pytest.fixture
def pipe() -> Iterator[TextIO]:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        yield stream
    os.close(reading)


def test_what_is_asked_for_is_done(pipe: TextIO) -> None:
    assert [chosen(form, {}, pipe) for form in ("text", "json")] == ["text", "json"]


def test_json_is_for_what_is_no_terminal(pipe: TextIO) -> None:
    assert chosen("auto", {}, pipe) == "json"
    assert chosen("auto", {"JOURNAL_STREAM": "1:2"}, pipe) == "json"


def test_text_is_for_a_terminal() -> None:
    leader, follower = os.openpty()
    with os.fdopen(follower, "w") as stream:
        assert chosen("auto", {}, stream) == "text"
    os.close(leader)


def test_the_journal_is_known_by_its_stream(pipe: TextIO) -> None:
    stat = os.fstat(pipe.fileno())

    assert chosen("auto", {"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"}, pipe) == logs.JOURNAL
