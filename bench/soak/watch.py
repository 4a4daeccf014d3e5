"""Each second: what the processes of an instance hold, and what they have counted."""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bench.soak.books import Books, Key, processes
from bench.soak.trend import Series
from voicerelay.cli.errors import NotRunning
from voicerelay.cli.status import read_status
from voicerelay.shm import rundir

FIGURES = ("rss_mib", "fds", "threads")
ROLES = ("supervisor", "control", "relay", "transceiver")
MIB = 1 << 20


@dataclass
class Watch:
    """series: of each life, by figure. shm: (seconds, bytes of the segments)."""

    run_dir: Path
    books: Books = field(default_factory=Books)
    series: dict[Key, dict[str, list[tuple[float, float]]]] = field(default_factory=dict)
    shm: list[tuple[float, int]] = field(default_factory=list)
    sessions: list[tuple[float, int]] = field(default_factory=list)
    missed: int = 0  # seconds without a status

    def look(self, at_s: float) -> None:
        try:
            status = read_status(self.run_dir)
        except NotRunning:
            self.missed += 1
            return
        self.books.take(at_s, status)
        self.sessions.append((at_s, status["sessions"]))
        self.shm.append((at_s, shm_bytes(self.run_dir)))
        for key in keys(status):
            try:
                process = psutil.Process(key.pid)
                with process.oneshot():
                    seen = (
                        process.memory_info().rss / MIB,
                        process.num_fds(),
                        process.num_threads(),
                    )
            except psutil.Error:
                continue
            kept = self.series.setdefault(key, defaultdict(list))
            for name, value in zip(FIGURES, seen, strict=True):
                kept[name].append((at_s, value))

    def lives(self, role: str, figure: str) -> list[Series]:
        return [kept[figure] for key, kept in self.series.items() if key.role == role]


def keys(status: dict[str, Any]) -> list[Key]:
    found = [Key(role, index, process["pid"]) for role, index, process in processes(status)]
    return [Key("supervisor", 0, status["pid"]), *found]


def shm_bytes(run_dir: Path) -> int:
    """Of the instance's segments."""
    name = rundir.region_name(run_dir)
    return sum(path.stat().st_size for path in Path("/dev/shm").glob(f"{name}*"))
