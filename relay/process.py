"""The relay process: joins control, reads its socket and any it is told to adopt, beats its heart."""

import asyncio
import gc
import json
import logging
import os
import signal
import socket
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import uvloop

from voicerelay.relay.fastpath import FastPath, FastPathMissing
from voicerelay.relay.links import Links
from voicerelay.relay.loop import Forwarder
from voicerelay.relay.pace import DEFAULT_COALESCE_S, Pace
from voicerelay.relay.route import Router
from voicerelay.shm import logs, protocol
from voicerelay.shm.client import ControlClient
from voicerelay.shm.lifeline import Lifeline, die_with_parent
from voicerelay.shm.protocol import Message
from voicerelay.shm.receive import Source, source_path
from voicerelay.shm.region import ABI, Region, RegionMismatch

HANDOVER_S = 0.05  # for a sibling to read the socket too

log = logging.getLogger("voicerelay.relay")


@dataclass(frozen=True)
class RelaySettings:
    """What the supervisor gives.

    `parent`: its pid, 0 when nobody supervises. `compiled`: use the loop in C where it was built.
    """

    run_dir: str
    index: int
    coalesce_us: int = round(DEFAULT_COALESCE_S * 1e6)
    compiled: bool = True
    lifeline: int = -1
    parent: int = 0
    log_level: str = "info"
    log_format: str = "auto"

    @classmethod
    def from_json(cls, text: str) -> "RelaySettings":
        return cls(**json.loads(text))


class RelayProcess:
    """Puts the parts together; lives until SIGTERM or its supervisor's end."""

    def __init__(self, settings: RelaySettings, lifeline: Lifeline) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._lifeline = lifeline
        self._stopped = asyncio.Event()
        self._region: Region | None = None
        self._forwarder: FastPath | Forwarder | None = None
        self._client = ControlClient(
            Path(settings.run_dir),
            self._hello,
            self._welcome,
            self._message,
            lambda: log.warning("control is gone; running calls go on"),
        )

    async def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._signalled, number)
        self._client.on_skew = self._lifeline.fail
        self._lifeline.watch(self._stopped.set)
        self._client.connect()
        await self._stopped.wait()
        self._lifeline.stopping()
        self._client.close()  # so that control has a sibling adopt the socket; we read on until it does
        await asyncio.sleep(HANDOVER_S)
        if self._forwarder is not None:
            self._forwarder.close()  # what it has read leaves, what waits is the sibling's

    def _signalled(self, number: int) -> None:
        if number == signal.SIGTERM:  # on Ctrl-C the supervisor decides
            self._stopped.set()

    def _hello(self) -> protocol.Hello:
        holding = self._forwarder.holding if self._forwarder else []
        return protocol.Hello(
            protocol.PROTOCOL, ABI, protocol.RELAY, self._settings.index, 0, holding
        )

    def _welcome(self, welcome: protocol.Welcome, fds: list[int]) -> None:
        if self._region is None or self._region.instance != welcome.instance:
            try:
                self._region = Region.attach(welcome.region, welcome.instance)
            except RegionMismatch as exc:
                _close_all(fds)
                log.error("cannot use the shared tables: %s", exc)
                self._stopped.set()
                return
            self._region.counters.relay(self._settings.index).claim(welcome.generation)
            earlier, self._forwarder = self._forwarder, self._make_forwarder(self._region)
            if earlier is not None:
                earlier.close()
            else:
                self._alive()
                self._lifeline.beats(self._heartbeat)
        self._region.counters.relay(self._settings.index).own()
        self._hold(self._settings.index, fds)
        self._lifeline.ready()

    def _message(self, message: Message, fds: list[int]) -> None:
        match message:
            case protocol.Adopt(relay):
                self._hold(relay, fds)
            case protocol.Release(relay) if self._forwarder and relay != self._settings.index:
                self._forwarder.release(relay)
            case _:
                _close_all(fds)

    def _make_forwarder(self, region: Region) -> FastPath | Forwarder:
        """The loop in C where it was built, else the one in Python."""
        settings = self._settings
        block = region.counters.relay(settings.index)
        routes, flows = region.route_reader(), region.flow_reader()
        run_dir, coalesce_s = Path(settings.run_dir), settings.coalesce_us / 1e6
        if settings.compiled:
            try:
                return FastPath(run_dir, block, coalesce_s, routes, flows)
            except FastPathMissing as exc:
                log.info("without the loop in C: %s", exc)

        def make_router(relay: int, local: int) -> Router[Source]:
            return Router(relay, routes, flows, partial(source_path, local))

        return Forwarder(self._loop, Links(run_dir), block, Pace(coalesce_s), make_router)

    def _hold(self, relay: int, fds: list[int]) -> None:
        if self._forwarder is None:
            _close_all(fds)
        else:
            self._forwarder.hold(relay, [socket.socket(fileno=fd) for fd in fds])

    def _alive(self) -> None:
        assert self._forwarder is not None
        self._forwarder.alive()
        self._loop.call_later(self._forwarder.alive_s, self._alive)

    def _heartbeat(self) -> int:
        """Given by the loop that forwards, in C or in Python."""
        assert self._region is not None
        return self._region.counters.relay(self._settings.index).heartbeat_ns


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def main(settings: RelaySettings, lifeline: Lifeline | None = None) -> None:
    """Run until the end; `lifeline`: to whoever supervises, if not by the settings' descriptor."""
    if settings.parent:
        die_with_parent(settings.parent)
    logs.set_up(f"relay {settings.index}", settings.log_level, settings.log_format)
    gc.freeze()  # what was imported lives for ever; collections need not look at it

    async def run() -> None:
        await RelayProcess(settings, lifeline or Lifeline(settings.lifeline)).run()

    uvloop.run(run())
