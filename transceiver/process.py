"""The transceiver process: joins control, takes frames, serves HTTP, runs the agent for each call."""

import asyncio
import gc
import logging
import signal
import socket
import time
from pathlib import Path

import uvloop
from aiohttp import web

from voicerelay import __version__
from voicerelay.shm import protocol, rundir
from voicerelay.shm.counters import Block, TransceiverCounter
from voicerelay.shm.lifeline import Lifeline, die_with_parent
from voicerelay.shm.region import Region, RegionMismatch
from voicerelay.transceiver import seam
from voicerelay.transceiver.affinity import pin
from voicerelay.transceiver.agent import Agent, AppError, load_app
from voicerelay.transceiver.directory import Directory
from voicerelay.transceiver.mux import Mux
from voicerelay.transceiver.pacer import Pacer
from voicerelay.transceiver.registry import Registry
from voicerelay.transceiver.settings import TransceiverSettings
from voicerelay.transceiver.siblings import Siblings
from voicerelay.transceiver.signalling import Signalling

HEARTBEAT_S = 0.1
HTTP_BACKLOG = 512
HTTP_SHUTDOWN_S = 0.5

log = logging.getLogger("voicerelay.transceiver")


class TransceiverProcess:
    """Puts the parts together; lives until SIGTERM or its supervisor's end."""

    def __init__(self, settings: TransceiverSettings, agent: Agent, lifeline: Lifeline) -> None:
        self._settings = settings
        self._agent = agent
        self._lifeline = lifeline
        self._run_dir = Path(settings.run_dir)
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._joined: asyncio.Future[protocol.Welcome] = self._loop.create_future()
        self._sockets: list[socket.socket] = []
        self._mux: Mux | None = None
        self._registry: Registry | None = None
        self._directory = Directory(self._run_dir, settings.slot, self._ready, self._flow_lost)

    async def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._signalled, number)
        self._lifeline.watch(self._stopped.set)
        self._directory.connect()
        welcome = await self._joined
        try:
            region = Region.attach(welcome.region, welcome.instance)
        except RegionMismatch as exc:
            self._lifeline.fail(f"cannot use the shared counters: {exc}")
            return
        settings = self._settings
        block = region.counters.transceiver(settings.slot)
        block.claim(welcome.generation)
        mux = self._mux = Mux(self._loop, block)
        mux.use_public(self._sockets, welcome.steered)
        mux.listen(rundir.frames_socket(self._run_dir, settings.slot, welcome.generation))
        pacer = Pacer(self._loop)
        self._registry = registry = Registry(
            settings.slot,
            self._agent,
            mux,
            self._directory,
            block,
            settings.candidates,
            settings.max_sessions,
            pacer,
        )
        registry.cluster_key = welcome.cluster_key
        registry.start()
        siblings = Siblings(self._run_dir, settings.slot)
        info = {
            "version": __version__,
            "agent": settings.app,
            "candidates": [f"{host}:{port}" for host, port in settings.candidates],
        }
        signalling = Signalling(registry, siblings, region.counters, block, info)

        self._beat(block, pacer)
        runners = [
            web.AppRunner(
                signalling.application(internal),
                access_log=None,
                handle_signals=False,
                shutdown_timeout=HTTP_SHUTDOWN_S,
            )
            for internal in (False, True)
        ]
        for runner in runners:
            await runner.setup()
        if await self._serve(runners):
            self._lifeline.ready()
            await self._stopped.wait()
        await registry.close_all("the server is stopping")
        for runner in runners:
            await runner.cleanup()
        await siblings.close()
        mux.close()

    async def _serve(self, runners: list[web.AppRunner]) -> bool:
        settings = self._settings
        public, internal = runners
        unix = rundir.http_socket(self._run_dir, settings.slot)
        unix.unlink(missing_ok=True)
        await web.UnixSite(internal, str(unix)).start()
        unix.chmod(rundir.SOCKET_MODE)
        try:
            await web.TCPSite(
                public,
                settings.http_host,
                settings.http_port,
                backlog=HTTP_BACKLOG,
                reuse_port=True,
            ).start()
        except OSError as exc:
            self._lifeline.fail(f"HTTP {settings.http_host}:{settings.http_port}: {exc.strerror}")
            return False
        return True

    def _signalled(self, number: int) -> None:
        if number == signal.SIGTERM:  # on Ctrl-C the supervisor decides
            self._stopped.set()

    def _beat(self, block: Block, pacer: Pacer, due: float | None = None) -> None:
        """The sign of life, and how well the work is done; `due`: when it was to be given."""
        now = time.monotonic()
        lag = now - due if due is not None else 0.0
        block.set(TransceiverCounter.LOOP_LAG_US, max(0, round(lag * 1e6)))
        block.set(TransceiverCounter.FRAME_LATENESS_P99_US, round(pacer.lateness(0.99) * 1e6))
        block.set(TransceiverCounter.OVERLOADED, int(pacer.overloaded))
        block.own()
        self._loop.call_at(now + HEARTBEAT_S, self._beat, block, pacer, now + HEARTBEAT_S)

    def _ready(self, welcome: protocol.Welcome, sockets: list[socket.socket]) -> None:
        if self._mux is not None:
            self._mux.use_public(sockets, welcome.steered)
        else:
            self._sockets = sockets
        if not self._joined.done():
            self._joined.set_result(welcome)

    def _flow_lost(self, path: bytes, number: int) -> None:
        if self._registry is not None:
            self._registry.flow_lost(path, number)


def main(settings: TransceiverSettings) -> None:
    if settings.parent:
        die_with_parent(settings.parent)
    if settings.pin:
        pin(settings.slot)
    logging.basicConfig(
        level=settings.log_level.upper(),
        format=f"%(levelname)s transceiver {settings.slot}: %(message)s",
    )
    lifeline = Lifeline(settings.lifeline)

    async def run() -> None:
        try:
            app = load_app(settings.app)
            seam.install()
            await seam.self_test()
        except (AppError, seam.SeamBroken) as exc:
            lifeline.fail(str(exc))
            raise SystemExit(2) from None
        assert app.agent is not None
        gc.collect()
        gc.freeze()  # what was imported lives for ever; collections need not look at it
        await TransceiverProcess(settings, app.agent, lifeline).run()

    uvloop.run(run())
