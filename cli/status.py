"""`voicerelay status`: what a running instance does, read live from its shared memory."""

import fcntl
import functools
import json
import os
import time
from enum import IntEnum
from pathlib import Path
from typing import Any

import click

from voicerelay import __version__
from voicerelay.cli.config import default_run_dir, run_base
from voicerelay.cli.errors import NotRunning, UserError
from voicerelay.cli.network import host_port
from voicerelay.cli.options import Command, config_option, sources_of
from voicerelay.shm import rundir
from voicerelay.shm.counters import Block, ControlCounter, RelayCounter, TransceiverCounter
from voicerelay.shm.region import Region, RegionMismatch, segment_inode

HEARTBEAT_OLD_MS = 500


def with_instance(command: Command) -> Command:
    """Give a command --port, --run-dir and --config; it is called with `run_dir` of the one meant."""

    @functools.wraps(command)
    @click.pass_context
    def run(ctx: click.Context, /, config_file: Path | None, **given: Any) -> Any:
        said = sources_of(ctx, config_file, "port", "run-dir").strongest("port", "run-dir")
        others = {key: given[key] for key in given if key not in ("port", "run_dir")}
        run_dir = said["run-dir"].absolute() if "run-dir" in said else None
        return command(run_dir=find_run_dir(run_dir, said.get("port")), **others)

    port = click.option("--port", type=int, help="UDP port of the instance, when several run.")
    directory = click.option(
        "--run-dir",
        type=click.Path(path_type=Path),
        help="Its run directory, if it has one of its own.",
    )
    wrapped: Command = port(directory(config_option(run)))
    return wrapped


def find_run_dir(run_dir: Path | None, port: int | None) -> Path:
    """The run directory meant; without a hint, that of the only running instance.

    Raises NotRunning or UserError.
    """
    if run_dir is not None or port is not None:
        chosen = run_dir or default_run_dir(port or 0)
        if not is_running(chosen):
            raise NotRunning(f"no instance runs in {chosen}; start one: voicerelay start")
        return chosen
    running = [path for path in _directories(run_base()) if is_running(path)]
    if not running:
        raise NotRunning("no instance runs; start one: voicerelay start")
    if len(running) > 1:
        ports = ", ".join(path.name for path in running)
        raise UserError(f"several instances run, choose one with --port: {ports}")
    return running[0]


def read_status(run_dir: Path) -> dict[str, Any]:
    """Everything `status --json` prints. Raises NotRunning."""
    return StatusReader(run_dir).read()


class StatusReader:
    """Reads one instance's status again and again; follows it over restarts of its parts."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._region: Region | None = None
        self._segment = -1  # inode of the tables that are attached

    def read(self) -> dict[str, Any]:
        """Raises NotRunning."""
        region = self.region()
        try:
            return status_of(self._run_dir, region)
        except (OSError, ValueError) as exc:
            raise self._unreadable(exc) from None

    def region(self) -> Region:
        """The instance's tables and counters; another one once control has made it. Raises NotRunning."""
        name = rundir.region_name(self._run_dir)
        try:
            segment = segment_inode(name)
            if self._region is None or segment != self._segment:
                self.close()
                self._region, self._segment = Region.attach(name), segment
            return self._region
        except (OSError, RegionMismatch) as exc:
            raise self._unreadable(exc) from None

    def _unreadable(self, why: Exception) -> NotRunning:
        self.close()
        return NotRunning(f"the instance in {self._run_dir} cannot be read: {why}")

    def close(self) -> None:
        if self._region is not None:
            self._region.close()
            self._region = None


def status_of(run_dir: Path, region: Region) -> dict[str, Any]:
    """Of a region that is attached already. Raises OSError or ValueError."""
    described: dict[str, Any] = json.loads((run_dir / rundir.INSTANCE_FILE).read_text())
    counters = region.counters
    control = counters.control()
    relays = [
        _process(block, RelayCounter) | {"index": index} for index, block in counters.relays()
    ]
    transceivers = [
        _process(block, TransceiverCounter) | {"slot": slot, "generation": block.generation}
        for slot, block in counters.transceivers()
    ]
    return described | {
        "run_dir": str(run_dir),
        "tool_version": __version__,
        "uptime_s": _uptime_s(described.get("pid", 0)),
        "capacity": region.sizes.capacity,
        "sockets": _sockets_of(described),
        "control": _process(control, ControlCounter) if control.pid else None,
        "relays": relays,
        "transceivers": transceivers,
        "routes": control.get(ControlCounter.ROUTES),
        "flows": control.get(ControlCounter.FLOWS),
        "sessions": sum(t["sessions"] for t in transceivers),
        "dropped": _sum_of(relays + transceivers),
    }


def _uptime_s(pid: int) -> float | None:
    """How long a process runs; None when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        started_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # proc_pid_stat(5): starttime
    except (OSError, ValueError, IndexError):
        return None
    return round(time.clock_gettime(time.CLOCK_BOOTTIME) - started_s, 1)


def render(status: dict[str, Any]) -> str:
    """The same for a person."""
    listen = " ".join(f"{host_port(host, status['port'])}/udp" for host in status["listen"])
    lines = [
        _head(status),
        f"listens on {listen}, HTTP {status['http']}",
        _plane(status),
        "  ".join(f"{status[what]} {what}" for what in ("sessions", "routes", "flows", "sockets"))
        + f"  receive buffers {status.get('receive_buffer_bytes', 0) >> 10} KiB",
        "",
        f"{'process':<16}{'pid':>8}{'up':>10}{'beat':>9}  work",
    ]
    for name, process, work in _rows(status):
        beat = f"{process['heartbeat_ms']:.0f} ms"
        if process["heartbeat_ms"] > HEARTBEAT_OLD_MS:
            beat += "!"
        up = duration(process["uptime_s"])
        lines.append(f"{name:<16}{process['pid']:>8}{up:>10}{beat:>9}  {work}")
    lost = sum(one["socket_overflows"] for one in status["relays"] + status["transceivers"])
    drops = {reason: count for reason, count in status["dropped"].items() if count}
    drops |= {"socket_overflow": lost} if lost else {}
    lines += ["", "dropped: " + (", ".join(f"{r} {n}" for r, n in drops.items()) or "nothing")]
    return "\n".join(lines)


def _head(status: dict[str, Any]) -> str:
    """What runs and since when; and when this command is of another version than what it shows."""
    line = f"voicerelay {status['version']}  pid {status['pid']}  {status['app']}"
    if status["uptime_s"] is not None:
        line += f"  up {duration(status['uptime_s'])}"
    if status["tool_version"] != status["version"]:
        line += f"  (this command is of {status['tool_version']})"
    return line


def duration(seconds: float) -> str:
    """For a person, in its two largest units: 42s, 3m07s, 5h02m, 12d04h."""
    minutes, rest_s = divmod(int(seconds), 60)
    hours, rest_m = divmod(minutes, 60)
    days, rest_h = divmod(hours, 24)
    if days:
        return f"{days}d{rest_h:02}h"
    if hours:
        return f"{hours}h{rest_m:02}m"
    return f"{minutes}m{rest_s:02}s" if minutes else f"{rest_s}s"


def _plane(status: dict[str, Any]) -> str:
    """Which plane is on and why; with steering, why it is not pinned."""
    line = f"plane: {status.get('plane')}"
    if reason := status.get("portable_because"):
        line += f" {reason}"
    if reason := status.get("unpinned_because"):
        line += f", not pinned: {reason}"
    return line


def _sockets_of(described: dict[str, Any]) -> int:
    """Public UDP sockets: one for each relay (steered: and transceiver slot) and listen address."""
    owners: int = described["relays"] + described.get("transceiver_sockets", 0)
    return owners * len(described["listen"])


def _rows(status: dict[str, Any]) -> list[tuple[str, dict[str, Any], str]]:
    rows = []
    if status["control"]:
        control = status["control"]
        rows.append(("control", control, f"{control['peers']} peers"))
    for relay in status["relays"]:
        work = (
            f"{'C' if relay['compiled'] else 'Python'} loop, {relay['sockets_read']} socket(s), "
            f"{relay['packets_received']} packets in, "
            f"{relay['packets_forwarded']} forwarded, {sum(relay['dropped'].values())} dropped"
        )
        rows.append((f"relay {relay['index']}", relay, work))
    for one in status["transceivers"]:
        work = (
            f"{one['sessions']}/{one['max_sessions']} sessions, {one['packets_received']} packets "
            f"in, {one['packets_sent']} out, {sum(one['dropped'].values())} dropped, "
            f"frames late by {one['frame_lateness_p99_us'] / 1000:.1f} ms (p99)"
        )
        if one["draining"]:
            work = f"draining, {one['drain_left_s']} s left, {work}"
        rows.append((f"transceiver {one['slot']}", one, work))
    return rows


def _process(block: Block, names: type[IntEnum]) -> dict[str, Any]:
    now = time.monotonic_ns()
    figures: dict[str, Any] = {
        "pid": block.pid,
        "alive": Path(f"/proc/{block.pid}").exists(),
        "uptime_s": round((now - block.started_ns) / 1e9, 1),
        "heartbeat_ms": round(max(0, now - block.heartbeat_ns) / 1e6, 1),
    }
    dropped = {}
    for name in names:
        value = int(block.words[name])
        if name.name.startswith("DROPPED_"):
            dropped[name.name.removeprefix("DROPPED_").lower()] = value
        else:
            figures[name.name.lower()] = value
    return figures | ({"dropped": dropped} if dropped else {})


def _sum_of(processes: list[dict[str, Any]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for process in processes:
        for reason, count in process["dropped"].items():
            total[reason] = total.get(reason, 0) + count
    return total


def _directories(base: Path) -> list[Path]:
    try:
        return sorted(path for path in base.iterdir() if path.is_dir())
    except OSError:
        return []


def is_running(run_dir: Path) -> bool:
    """Whether a supervisor holds the lock; a file without its holder is a leftover."""
    try:
        fd = os.open(run_dir / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
