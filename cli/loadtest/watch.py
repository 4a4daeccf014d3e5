"""The server beside the load test, where it runs on this machine: what it takes, and what it counted itself."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from voicerelay.cli.config import run_base
from voicerelay.cli.errors import UserError
from voicerelay.cli.loadtest.targets import addresses_of, is_here
from voicerelay.cli.network import host_port
from voicerelay.cli.status import find_run_dir, read_status


@dataclass(frozen=True)
class Sample:
    """Since the beginning; RSS of all processes, Linux counts what they share for each."""

    at_s: float
    cpu_s: float
    rss_bytes: int
    sessions: int


@dataclass(frozen=True)
class Counted:
    """Datagrams by the server's own counters, since the beginning."""

    received: int  # by its transceivers, or dropped by its relays
    sent: int
    dropped: dict[str, int] = field(default_factory=dict)


class Watched:
    """One running instance."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._processes: dict[int, psutil.Process] = {}
        self._first = read_status(run_dir)
        self.http: str = self._first["http"]
        self._cpu: dict[int, float] = {}
        self._before = dict(self._cpu_now(self._first))

    def sample(self, at_s: float) -> Sample:
        """Raises NotRunning."""
        status = read_status(self._run_dir)
        now = self._cpu_now(status)
        self._cpu.update(now)  # those that have died keep what they took
        used = sum(cpu - self._before.get(pid, 0.0) for pid, cpu in self._cpu.items())
        rss = 0
        for pid in now:
            try:
                rss += self._process(pid).memory_info().rss
            except psutil.Error:
                continue
        return Sample(at_s, used, rss, status["sessions"])

    def counted(self) -> Counted:
        """Raises NotRunning."""
        first, last = self._first, read_status(self._run_dir)
        dropped = {
            reason: count - first["dropped"].get(reason, 0)
            for reason, count in last["dropped"].items()
            if count > first["dropped"].get(reason, 0)
        }
        return Counted(_received(last) - _received(first), _sent(last) - _sent(first), dropped)

    def _cpu_now(self, status: dict[str, Any]) -> dict[int, float]:
        found = {}
        for pid in _pids(status):
            try:
                found[pid] = sum(self._process(pid).cpu_times()[:2])
            except psutil.Error:
                continue
        return found

    def _process(self, pid: int) -> psutil.Process:
        if pid not in self._processes:
            self._processes[pid] = psutil.Process(pid)
        return self._processes[pid]


def instance_of(url: str, run_dir: Path | None, port: int | None) -> Watched | None:
    """The instance on this machine that serves `url`; None where there is none, or it is somebody else's."""
    if run_dir is not None or port is not None:
        return Watched(find_run_dir(run_dir, port))
    try:
        running = sorted(run_base().iterdir())
    except OSError:
        return None
    parts = urlsplit(url)
    for path in running:
        try:
            found = Watched(find_run_dir(path, None))
        except UserError:
            continue
        same_port = int(found.http.rpartition(":")[2]) == (
            parts.port or (443 if parts.scheme == "https" else 80)
        )
        if same_port and all(is_here(a) for a in addresses_of(parts.hostname or "")):
            return found
    return None


def local_url(run_dir: Path | None, port: int | None) -> tuple[str, Watched]:
    """HTTP address of the instance meant; without a hint, of the only one. Raises NotRunning or UserError."""
    watched = Watched(find_run_dir(run_dir, port))
    host, _, http_port = watched.http.rpartition(":")
    host = host.strip("[]")
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"http://{host_port(host, int(http_port))}", watched


def _pids(status: dict[str, Any]) -> list[int]:
    processes = [*status["relays"], *status["transceivers"]]
    processes += [status["control"]] if status["control"] else []
    return [one["pid"] for one in processes] + [status["pid"]]


def _received(status: dict[str, Any]) -> int:
    relays = sum(sum(relay["dropped"].values()) for relay in status["relays"])
    return int(relays + sum(one["packets_received"] for one in status["transceivers"]))


def _sent(status: dict[str, Any]) -> int:
    return int(sum(one["packets_sent"] for one in status["transceivers"]))
