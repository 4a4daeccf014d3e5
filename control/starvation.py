"""Tells a process that hangs from one that only waits for a core, which a successor would do too."""

from collections.abc import Callable
from pathlib import Path

TICKS_OF_A_BUSY_LOOP = 4  # of 10 ms, between two looks 80 ms apart: it runs, and yet gives no sign

PROC = Path("/proc")
Look = Callable[[int], int | None]
IsStopped = Callable[[int], bool]


def is_stopped(pid: int, proc: Path = PROC) -> bool:
    """Whether a process goes on only when somebody sends SIGCONT."""
    try:
        return set(_states(pid, proc)) == {"T"}
    except (OSError, ValueError, IndexError):
        return False


def ticks_if_runnable(pid: int, proc: Path = PROC) -> int | None:
    """CPU ticks a process has used, if one of its threads could run now; None if none could, or it is gone."""
    try:
        states = _states(pid, proc)
        fields = _after_name(proc / str(pid) / "stat").split()
        return int(fields[11]) + int(fields[12]) if "R" in states else None  # utime, stime
    except (OSError, ValueError, IndexError):
        return None


def starves(first: int | None, now: int | None) -> bool:
    """Whether a process with these two looks could run and hardly did."""
    return first is not None and now is not None and now - first < TICKS_OF_A_BUSY_LOOP


def _states(pid: int, proc: Path) -> list[str]:
    """Of each thread, as one letter."""
    tasks = (proc / str(pid) / "task").iterdir()
    return [_after_name(task / "stat").split(None, 1)[0] for task in tasks]


def _after_name(stat: Path) -> str:
    """From the state on; the name before it may hold anything (proc(5))."""
    return stat.read_text(errors="replace").rpartition(")")[2]
