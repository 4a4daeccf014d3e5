"""Takes one look at a running instance: shared memory, /proc, and what its transceivers tell."""

import asyncio
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from voicerelay.cli.figures import TransceiverFigures
from voicerelay.cli.status import StatusReader

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_UTIME, _STIME, _RSS = 11, 12, 21  # after the name, proc_pid_stat(5)


class Use(NamedTuple):
    """What a process has used: seconds of CPU since its start, bytes of memory now."""

    cpu_s: float
    rss_bytes: int


@dataclass(frozen=True)
class Sample:
    """One look. `at`: monotonic s; `status`: as `read_status` has it; `use`: by pid;

    `figures`: by slot, `sessions`: as `TransceiverFigures` has them.
    """

    at: float
    status: dict[str, Any]
    use: dict[int, Use] = field(default_factory=dict)
    figures: dict[int, dict[str, Any]] = field(default_factory=dict)
    sessions: list[dict[str, Any]] = field(default_factory=list)


class Sampler:
    """Looks at the instance of one run directory."""

    def __init__(self, run_dir: Path) -> None:
        self._reader = StatusReader(run_dir)
        self._figures = TransceiverFigures(run_dir)

    async def take(self) -> Sample:
        """Raises NotRunning."""
        status = self._reader.read()
        figures, sessions = await asyncio.gather(self._figures.figures(), self._figures.sessions())
        processes = [*status["relays"], *status["transceivers"], status["control"] or {}]
        pids = [process["pid"] for process in processes if process]
        use = {pid: found for pid in pids if (found := use_of(pid)) is not None}
        return Sample(time.monotonic(), status, use, figures, sessions)

    def close(self) -> None:
        self._reader.close()


def use_of(pid: int) -> Use | None:
    """None when the process is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None
    cpu_ticks = int(fields[_UTIME]) + int(fields[_STIME])
    return Use(cpu_ticks / _TICKS_A_SECOND, int(fields[_RSS]) * _PAGE_BYTES)
