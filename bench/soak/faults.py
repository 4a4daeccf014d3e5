"""A fault done to a running instance, and what its victim had counted before."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bench.soak.books import Key
from bench.soak.plan import Fault
from voicerelay.cli.status import read_status
from voicerelay.shm import rundir
from voicerelay.shm.counters import RelayCounter, TransceiverCounter
from voicerelay.shm.region import Region

LOOK_S, LOOKS = 0.001, 100  # until a signal has had its effect
DEAD = "ZXT"  # states of /proc/PID/stat, T: stopped

_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


class Done(NamedTuple):
    """doomed: calls that may end by it. figures: the counters as the process left them."""

    key: Key
    doomed: int
    figures: dict[str, Any] | None


async def do(fault: Fault, run_dir: Path) -> Done | None:
    """Do it, and read what the process has counted before its successor begins anew; None: nobody there."""
    verb, role = fault.kind.split()
    status = read_status(run_dir)
    found = {
        "relay": {one["index"]: one for one in status["relays"]},
        "transceiver": {one["slot"]: one for one in status["transceivers"]},
        "control": {0: status["control"]} if status["control"] else {},
    }[role].get(fault.number)
    if found is None:
        return None
    key = Key(role, fault.number, found["pid"])
    with contextlib.suppress(ProcessLookupError):
        os.kill(key.pid, _SIGNALS[verb])
    for _ in range(LOOKS):
        if not _runs(key.pid):
            break
        await asyncio.sleep(LOOK_S)
    return Done(key, found.get("sessions", 0), left_behind(run_dir, key))


def left_behind(run_dir: Path, key: Key) -> dict[str, Any] | None:
    """The block of a dead or stopped process; None for control's, which is no part of the balance."""
    if key.role == "control":
        return None
    names = RelayCounter if key.role == "relay" else TransceiverCounter
    with _counters(run_dir) as counters:
        block = (counters.relay if key.role == "relay" else counters.transceiver)(key.number)
        values = {name.name: block.get(name) for name in names}
        if block.pid not in (0, key.pid):
            return None  # the successor was quicker
        del block
    prefix = "DROPPED_"
    drops = {n.removeprefix(prefix).lower(): v for n, v in values.items() if n.startswith(prefix)}
    others = {n.lower(): v for n, v in values.items() if not n.startswith(prefix)}
    return others | {"dropped": drops}


@contextlib.contextmanager
def _counters(run_dir: Path) -> Iterator[Any]:
    region = Region.attach(rundir.region_name(run_dir))
    yield region.counters
    del region


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in DEAD
    except OSError:
        return False
