"""What a process takes, seen from outside: CPU, memory, threads, files."""

import os
from collections.abc import Iterable

import psutil


class Watched:
    """Some processes; those that have gone count with nothing."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._processes = [psutil.Process(pid) for pid in pids]

    def cpu_s(self) -> dict[int, float]:
        """User and system time of each so far."""
        return {process.pid: sum(process.cpu_times()[:2]) for process in self._processes}

    def sizes(self) -> dict[int, dict[str, int]]:
        return {
            process.pid: {
                "rss_bytes": process.memory_info().rss,
                "threads": process.num_threads(),
                "fds": process.num_fds(),
            }
            for process in self._processes
        }


def pin(pid: int, cpu: int, priority: int = 0) -> None:
    """Every thread of a process; those it will start inherit it. priority: its niceness."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), {cpu})
        if priority:
            os.setpriority(os.PRIO_PROCESS, int(thread), priority)
