"""The control process: creates or takes over the region, serves until told to stop, cleans up."""

import asyncio
import json
import logging
import secrets
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from voicerelay.control.plane import SteeringPlane
from voicerelay.control.server import ControlServer
from voicerelay.control.state import ControlState
from voicerelay.shm import logs, rundir
from voicerelay.shm.counters import ControlCounter
from voicerelay.shm.lifeline import Lifeline
from voicerelay.shm.protocol import RELAY, TRANSCEIVER
from voicerelay.shm.region import (
    INSTANCE_BYTES,
    Region,
    RegionMismatch,
    RegionSpaceError,
    Sizes,
    is_ours,
)

log = logging.getLogger("voicerelay.control")


@dataclass(frozen=True)
class ControlSettings:
    """What the supervisor gives. `sockets[relay]`: inherited descriptors, one a listen address.

    `instance`: in hexadecimal; empty where only the tables know it, as nobody outlives control.
    With kernel steering also `transceiver_sockets[slot]`, alike, and `steering`, the descriptors
    of each listen address's maps by name.
    """

    run_dir: str
    instance: str
    capacity: int
    sockets: list[list[int]]
    transceiver_sockets: list[list[int]] = field(default_factory=list)
    steering: list[dict[str, int]] = field(default_factory=list)
    lifeline: int = -1
    log_level: str = "info"
    log_format: str = "auto"

    @classmethod
    def from_json(cls, text: str) -> "ControlSettings":
        return cls(**json.loads(text))


def open_region(run_dir: Path, instance: bytes, capacity: int) -> Region:
    """The region of this instance as an earlier control left it, else a new one.

    An empty `instance`: whichever stands there since the last boot; else a new one, and what was
    left beside it is removed.
    """
    name = rundir.region_name(run_dir)
    try:
        if not instance and not is_ours(name):
            raise RegionMismatch("there is none, or it is another user's")
        region = Region.attach(name, instance or None)
        if region.sizes == Sizes.for_capacity(capacity):
            return region
        region.close()
    except RegionMismatch as exc:
        log.debug("new tables: %s", exc)
    if not instance:
        rundir.clean(run_dir)
        instance = secrets.token_bytes(INSTANCE_BYTES)
    return Region.create(name, instance, Sizes.for_capacity(capacity))


def clean_up_after_supervisor(run_dir: Path) -> None:
    """The supervisor was killed: remove what it would have removed, unless a successor is there."""
    lock = rundir.InstanceLock(run_dir)
    if lock.acquire():
        rundir.remove(run_dir)
        lock.release()


async def serve(settings: ControlSettings, lifeline: Lifeline) -> None:
    """Run until SIGTERM or the supervisor's death."""
    run_dir = Path(settings.run_dir)
    try:
        region = open_region(run_dir, bytes.fromhex(settings.instance), settings.capacity)
    except (RegionSpaceError, OSError) as exc:
        lifeline.fail(f"cannot make the shared tables: {exc}")
        raise SystemExit(2) from None
    region.counters.control().claim()
    plane = SteeringPlane(settings.steering) if settings.steering else None
    state = ControlState(region, len(settings.sockets), time.monotonic(), plane)
    state.block.set(ControlCounter.RECORDS_REPAIRED, state.repaired)
    sockets = {(RELAY, i): fds for i, fds in enumerate(settings.sockets)}
    sockets |= {(TRANSCEIVER, i): fds for i, fds in enumerate(settings.transceiver_sockets)}
    server = ControlServer(state, rundir.control_socket(run_dir), sockets)
    server.start()
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # the supervisor decides on Ctrl-C

    def supervisor_gone() -> None:
        clean_up_after_supervisor(run_dir)
        stopped.set()

    lifeline.watch(supervisor_gone)
    lifeline.ready()
    lifeline.beats(lambda: state.block.heartbeat_ns)
    await stopped.wait()
    lifeline.stopping()


def main(settings: ControlSettings, lifeline: Lifeline | None = None) -> None:
    """Run until the end; `lifeline`: to whoever supervises, if not by the settings' descriptor."""
    logs.set_up("control", settings.log_level, settings.log_format)
    uvloop.run(serve(settings, lifeline or Lifeline(settings.lifeline)))
