"""What the host still gives this process: descriptors and memory. Short of either, it takes no new call."""

import os
import resource
from pathlib import Path
from typing import Final

MIN_DESCRIPTORS: Final = 32  # free ones, so that HTTP can still say no
MIN_MEMORY_BYTES: Final = 64 << 20  # free ones, of the process's limit or its control group's
LOOK_S: Final = 0.5

_ROOT: Final = Path("/")
# (controller in /proc/self/cgroup, where its groups stand, limit, usage) of cgroup v2 and v1
_GROUPS: Final = (
    ("", "sys/fs/cgroup", "memory.max", "memory.current"),
    ("memory", "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)


def shortage(descriptors: float, memory: float) -> str:
    """What there is too little of, for a person to read; empty when there is enough."""
    if descriptors < MIN_DESCRIPTORS:
        return "file descriptors"
    if memory < MIN_MEMORY_BYTES:
        return "memory"
    return ""


def descriptors_left() -> float:
    """How many more this process may open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return float("inf")
    return limit - len(os.listdir("/proc/self/fd"))


def memory_left(root: Path = _ROOT) -> float:
    """Bytes until RLIMIT_AS or the limit of the control group; inf without one."""
    return min(_address_space_left(root), _group_left(root))


def _address_space_left(root: Path) -> float:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return float("inf")
    pages = int((root / "proc/self/statm").read_text().split()[0])
    return limit - pages * resource.getpagesize()


def _group_left(root: Path) -> float:
    """Cached files are no need: the kernel gives them up before it ends anybody."""
    left = float("inf")
    for controller, base, limit, usage in _GROUPS:
        for folder in (_group_of(root, controller), ""):
            group = root / base / folder
            try:
                most = (group / limit).read_text().strip()
                if most == "max":
                    break
                used = int((group / usage).read_text()) - _cached(group / "memory.stat")
            except (OSError, ValueError):
                continue  # in a container its own group is the root
            left = min(left, int(most) - used)
            break
    return left


def _group_of(root: Path, controller: str) -> str:
    """The process's group below the controller's mount, without the leading slash."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            return path.lstrip("/")
    return ""


def _cached(stat: Path) -> int:
    for line in stat.read_text().splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0
