"""Gathers what the host is like: kernel, clock, limits, memory, cores; steering is really tried."""

import ctypes
import os
import platform
import resource
import socket
from contextlib import suppress
from pathlib import Path

import psutil

from voicerelay.cli import network
from voicerelay.cli.doctor.facts import HostFacts, KernelFacts
from voicerelay.cli.errors import UserError
from voicerelay.relay import fastpath, steering
from voicerelay.shm.bpf import BPFFS, BpfUnavailable
from voicerelay.shm.region import MIN_CAPACITY, Sizes
from voicerelay.transceiver import voice

CAPABILITY_BITS = {"CAP_NET_BIND_SERVICE": 10, "CAP_NET_ADMIN": 12, "CAP_BPF": 39}
TIME_ERROR, STA_UNSYNC = 5, 0x40  # <linux/timex.h>
CGROUPS = Path("/sys/fs/cgroup")
CLOCKS = Path("/sys/devices/system/clocksource/clocksource0")


def gather_kernel() -> KernelFacts:
    return KernelFacts(
        release=platform.release(),
        capabilities=_capabilities(_text(Path("/proc/self/status"))),
        steering_obstacle=_try_steering(),
        pin_obstacle=_pin_obstacle(),
        loop_obstacle=_loop_obstacle(),
        voice_obstacle="" if voice.LIBRARY.exists() else "it was not built",
    )


def gather_host(pid: int | None) -> HostFacts:
    """`pid`: of the instance that runs, whose limits count then."""
    soft, hard = _file_limits(pid)
    synchronised, error_us = _synchronised()
    folders = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq")
    frequency = [
        (_text(one / "scaling_governor"), _text(one / "scaling_driver")) for one in folders
    ]
    return HostFacts(
        clock_source=_text(CLOCKS / "current_clocksource"),
        clock_sources=tuple(_text(CLOCKS / "available_clocksource").split()),
        synchronised=synchronised,
        clock_error_us=error_us,
        cores=min(float(len(os.sched_getaffinity(0))), _core_quota()),
        files_soft=soft,
        files_hard=hard,
        memory_bytes=_memory_bytes(),
        shm_free_bytes=_free_bytes(Path("/dev/shm")),
        governors=frozenset(governor for governor, _ in frequency if governor),
        frequency_driver=frequency[0][1] if frequency else "",
    )


def _capabilities(status: str) -> frozenset[str]:
    """The effective ones that matter here, of /proc/self/status."""
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            bits = int(value, 16)
            return frozenset(name for name, bit in CAPABILITY_BITS.items() if bits >> bit & 1)
    return frozenset()


def _try_steering() -> str:
    """Load and attach the program on sockets of our own; what was in the way, else empty."""
    sizes = Sizes.for_capacity(MIN_CAPACITY)
    sockets: list[list[socket.socket]] = []
    try:
        sockets = network.join_public_sockets(["127.0.0.1"], 0, 1)
        port = sockets[0][0].getsockname()[1]
        sockets += network.join_public_sockets(["127.0.0.1"], port, 1)
        for group in steering.load(sockets[:1], sockets[1:], sizes):
            group.close()
    except (BpfUnavailable, UserError) as exc:
        return str(exc)
    finally:
        network.close_all(sockets)
    return ""


def _pin_obstacle() -> str:
    if not BPFFS.is_mount():
        return f"not mounted at {BPFFS}: nothing is pinned"
    if not os.access(BPFFS, os.W_OK):
        return f"{BPFFS} cannot be written by this user: nothing is pinned"
    return ""


def _loop_obstacle() -> str:
    try:
        fastpath.open_library()
    except fastpath.FastPathMissing as exc:
        return str(exc)
    return ""


class _Timex(ctypes.Structure):
    """struct timex of adjtimex(2); only what is read has a name."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),  # µs
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),  # more than the kernel writes
    )


def _synchronised() -> tuple[bool | None, int]:
    """Whether the kernel's clock is held by NTP, and how wrong it may be, in µs."""
    timex = _Timex()  # modes 0: only asked
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    except (OSError, AttributeError):
        return None, 0
    if state < 0:
        return None, 0
    return state != TIME_ERROR and not timex.status & STA_UNSYNC, int(timex.maxerror)


def _file_limits(pid: int | None) -> tuple[int, int]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if pid is not None:
        with suppress(psutil.Error, OSError):
            limits = psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE)
    soft, hard = (1 << 30 if limit < 0 else limit for limit in limits)
    return soft, hard


def _memory_bytes() -> int:
    """What this host, and this process's control group, still has."""
    free = int(psutil.virtual_memory().available)
    group = _cgroup()
    with suppress(OSError, ValueError):
        limit = int((group / "memory.max").read_text())  # "max": no limit
        free = min(free, limit - int((group / "memory.current").read_text()))
    return free


def _core_quota() -> float:
    """Cores that the control group may use."""
    quota, _, period = _text(_cgroup() / "cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() else float("inf")


def _cgroup() -> Path:
    """Of cgroup v2; its root when there is no other."""
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        if line.startswith("0::/"):
            return CGROUPS / line.removeprefix("0::/")
    return CGROUPS


def _free_bytes(path: Path) -> int:
    try:
        found = os.statvfs(path)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
