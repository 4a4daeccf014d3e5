"""A relay that waits for a core is no relay that hangs."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from voicerelay.control.starvation import (
    TICKS_OF_A_BUSY_LOOP,
    is_stopped,
    starves,
    ticks_if_runnable,
)


def process(proc: Path, states: str, utime: int, stime: int) -> Path:
    """A made-up /proc with process 7 and a thread for each state."""
    line = "7 (a ) name) {} 1 1 1 0 -1 0 0 0 0 0 {} {} 0 0 20 0 1 0"
    (proc / "7" / "task").mkdir(parents=True)
    (proc / "7" / "stat").write_text(line.format(states[0], utime, stime))
    for number, state in enumerate(states):
        (proc / "7" / "task" / str(number)).mkdir()
        (proc / "7" / "task" / str(number) / "stat").write_text(line.format(state, 1, 1))
    return proc


@pytest.mark.parametrize(("states", "ticks"), [("SR", 12), ("R", 12), ("SS", None), ("TT", None)])
def test_only_who_could_run_has_ticks(tmp_path: Path, states: str, ticks: int | None) -> None:
    assert ticks_if_runnable(7, process(tmp_path, states, 5, 7)) == ticks


def test_who_is_gone_has_none(tmp_path: Path) -> None:
    assert ticks_if_runnable(7, tmp_path) is None


@pytest.mark.parametrize(
    ("states", "found"), [("T", True), ("TT", True), ("TS", False), ("R", False), ("t", False)]
)
def test_only_who_is_stopped_as_a_whole_is_stopped(
    tmp_path: Path, states: str, found: bool
) -> None:
    assert is_stopped(7, process(tmp_path, states, 5, 7)) is found


def test_who_is_gone_is_not_stopped(tmp_path: Path) -> None:
    assert not is_stopped(7, tmp_path)


def test_a_stopped_process_is_seen_from_outside() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        process.send_signal(signal.SIGSTOP)
        while not is_stopped(process.pid):
            pass
        process.kill()


def test_we_ourselves_run() -> None:
    assert ticks_if_runnable(os.getpid()) is not None


def test_who_sleeps_could_not_run() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as sleeper:
        assert sleeper.stdout is not None
        sleeper.stdout.readline()
        while ticks_if_runnable(sleeper.pid) is not None:
            pass
        sleeper.kill()


@pytest.mark.parametrize(
    ("first", "now", "found"),
    [
        (100, 100, True),
        (100, 100 + TICKS_OF_A_BUSY_LOOP - 1, True),
        (100, 100 + TICKS_OF_A_BUSY_LOOP, False),
        (None, 100, False),
        (100, None, False),
    ],
)
def test_a_busy_loop_is_told_from_starving(first: int | None, now: int | None, found: bool) -> None:
    assert starves(first, now) is found
