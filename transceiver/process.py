"""The transceiver process: joins control, takes frames, serves HTTP, runs the agent for each call."""

import asyncio
import gc
import logging
import signal
import socket
import sys
import time
from pathlib import Path

import uvloop

from voicerelay import __version__
from voicerelay.shm import logs, protocol, rundir
from voicerelay.shm.counters import Block, TransceiverCounter
from voicerelay.shm.lifeline import Lifeline, die_with_parent
from voicerelay.shm.order import RETIRE, Order, parse_order
from voicerelay.shm.region import Region, RegionMismatch
from voicerelay.transceiver import headroom, seam, stock_seam
from voicerelay.transceiver.affinity import pin
from voicerelay.transceiver.agent import App, AppError, AsgiApp, Session, load_app
from voicerelay.transceiver.collector import COLLECT_S, THRESHOLDS, Collector
from voicerelay.transceiver.directory import Directory
from voicerelay.transceiver.drain import Drain
from voicerelay.transceiver.internal import Internal
from voicerelay.transceiver.mux import Mux
from voicerelay.transceiver.realtime.backend import Backend, backend_app
from voicerelay.transceiver.records import CallRecords, RecordsError, record_of
from voicerelay.transceiver.registry import Registry
from voicerelay.transceiver.session import LiveSession
from voicerelay.transceiver.settings import TransceiverSettings
from voicerelay.transceiver.signalling.access import Access, objection
from voicerelay.transceiver.signalling.app import Signalling
from voicerelay.transceiver.signalling.asgi import Neighbourhood, OwnerFirst
from voicerelay.transceiver.signalling.front import Front, FrontError, SignallingFront, require_asgi
from voicerelay.transceiver.signalling.iceservers import IceServersError, read_ice_servers
from voicerelay.transceiver.signalling.keys import KeyFileError
from voicerelay.transceiver.signalling.names import Names
from voicerelay.transceiver.signalling.siblings import Siblings
from voicerelay.transceiver.stock import StockHost
from voicerelay.transceiver.voice.engine import Compiled, Engine, EngineMissing
from voicerelay.transceiver.voice.pacer import Pacer

HEARTBEAT_S = 0.1

log = logging.getLogger("voicerelay.transceiver")


class TransceiverProcess:
    """Puts the parts together; lives until SIGTERM or its supervisor's end."""

    def __init__(
        self, settings: TransceiverSettings, app: App | AsgiApp, lifeline: Lifeline
    ) -> None:
        self._settings = settings
        self._app = app
        self._lifeline = lifeline
        self._run_dir = Path(settings.run_dir)
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._joined: asyncio.Future[protocol.Welcome] = self._loop.create_future()
        self._sockets: list[socket.socket] = []
        self._mux: Mux | None = None
        self._registry: Registry | None = None
        self._drain: Drain | None = None
        self._order: Order | None = None
        self._directory = Directory(self._run_dir, settings.slot, self._ready, self._flow_lost)

    async def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            self._loop.add_signal_handler(number, self._signalled, number)
        self._lifeline.watch(self._stopped.set, self._ordered)
        self._directory.connect(self._lifeline.fail)
        welcome = await self._joined
        try:
            region = Region.attach(welcome.region, welcome.instance)
        except RegionMismatch as exc:
            self._lifeline.fail(f"cannot use the shared counters: {exc}")
            return
        settings = self._settings
        block = region.counters.transceiver(settings.slot)
        block.claim(welcome.generation)
        mux = self._mux = Mux(self._loop, block, self._engine())
        mux.use_public(self._sockets, welcome.steered)
        mux.listen(rundir.frames_socket(self._run_dir, settings.slot, welcome.generation))
        pacer = Pacer(self._loop, engine=mux.engine, sent=mux.count_sent)
        self._registry = registry = Registry(
            settings.slot,
            (self._app.agent if isinstance(self._app, App) else None) or _nobody,
            mux,
            self._directory,
            block,
            settings.candidates,
            settings.max_sessions,
            pacer,
        )
        drain = self._drain = Drain(registry, block, self._stopped.set, settings.held)
        if self._order is not None:
            drain.obey(self._order, time.monotonic())
        registry.cluster_key = welcome.cluster_key
        registry.start()
        if stock_seam.wanted:
            stock_seam.place(StockHost(registry, mux, self._directory))
        elif not isinstance(self._app, App):
            log.warning("APP has not called voicerelay.aiortc.install(): its calls use other ports")
        siblings = Siblings(self._run_dir, settings.slot)

        self._look_at_host(registry)
        self._beat(block, pacer, registry, drain)
        self._collect(registry, Collector(time.monotonic(), sys.getallocatedblocks()))
        records: CallRecords | None = None
        front: Front | None = None
        internal: Internal | None = None
        try:
            records = self._record(registry)
            internal = Internal(
                registry,
                block,
                pacer,
                self._agent,
                records,
                self._obey,
                settings.drain_deadline_s,
            )
            await internal.start(self._run_dir)
            front = self._front(registry, siblings, region, block)
            await front.start()
        except (FrontError, RecordsError) as exc:
            self._lifeline.fail(str(exc))
        else:
            self._lifeline.ready()
            self._lifeline.beats(lambda: block.heartbeat_ns)
            await self._stopped.wait()
        self._lifeline.stopping()
        await registry.close_all("the server is stopping")
        if front is not None:
            await front.stop()
        if internal is not None:
            await internal.stop()
        await siblings.close()
        for session in registry.live():  # that did not end in time
            registry.figures.left(session)
        if records is not None:
            records.close()
        mux.close()

    def _record(self, registry: Registry) -> CallRecords | None:
        """Have a record written of each call that ends. Raises RecordsError."""
        settings = self._settings
        if not settings.call_records:
            return None
        records = CallRecords(settings.call_records)

        def left(session: LiveSession) -> None:
            now = time.monotonic()
            records.put(record_of(session, settings.slot, self._agent, now, time.time()))

        registry.figures.on_left = left
        return records

    def _front(self, registry: Registry, siblings: Siblings, region: Region, block: Block) -> Front:
        settings, counters = self._settings, region.counters
        if not isinstance(self._app, App):
            routes = region.route_reader()
            around = Neighbourhood(settings.slot, registry, siblings, counters, routes)
            # uvicorn is there only for those who have such an app.
            from voicerelay.transceiver.signalling.asgi_server import AsgiServer  # noqa: PLC0415

            return AsgiServer(OwnerFirst(self._app, around), settings)
        info = {
            "version": __version__,
            "agent": self._agent,
            "candidates": [f"{host}:{port}" for host, port in settings.candidates],
        }
        try:
            access = Access(settings.access)
        except KeyFileError as exc:
            raise FrontError(f"--api-key-file: {settings.access.api_key_file} {exc}") from exc
        try:
            path = settings.ice_servers_file
            servers = read_ice_servers(path) if path else []
        except IceServersError as exc:
            raise FrontError(f"--ice-servers: {path} {exc}") from exc
        names = Names(region.route_reader(), self._directory)
        signalling = Signalling(registry, siblings, counters, block, names, access, info, servers)
        return SignallingFront(signalling, settings)

    @property
    def _agent(self) -> str:
        """Who speaks with the callers; an URL may hold more than others should know."""
        return "Realtime backend" if self._settings.backend else self._settings.app

    def _engine(self) -> Engine:
        """Voice in C where it was built, else all of it in Python."""
        if not self._settings.compiled:
            return Engine()
        try:
            return Compiled()
        except EngineMissing as exc:
            log.info("without voice in C: %s", exc)
            return Engine()

    def _signalled(self, number: int) -> None:
        if number == signal.SIGTERM:  # on Ctrl-C the supervisor decides
            self._stopped.set()
        elif number == signal.SIGQUIT:
            self._obey(Order(RETIRE, self._settings.drain_deadline_s))

    def _ordered(self, data: bytes) -> None:
        order = parse_order(data)
        if order is not None:
            self._obey(order)

    def _obey(self, order: Order) -> None:
        self._order = order  # for one that has not begun
        if self._drain is not None:
            self._drain.obey(order, time.monotonic())

    def _collect(self, registry: Registry, collector: Collector) -> None:
        collector.look(time.monotonic(), registry.sessions)
        self._loop.call_later(COLLECT_S, self._collect, registry, collector)

    def _look_at_host(self, registry: Registry) -> None:
        """Refuse new calls while the host has nothing left for them."""
        short_of = headroom.shortage(headroom.descriptors_left(), headroom.memory_left())
        if short_of and short_of != registry.shortage:
            log.warning("no new calls for want of %s", short_of)
        registry.shortage = short_of
        self._loop.call_later(headroom.LOOK_S, self._look_at_host, registry)

    def _beat(
        self, block: Block, pacer: Pacer, registry: Registry, drain: Drain, due: float | None = None
    ) -> None:
        """The sign of life, and how well the work is done; `due`: when it was to be given."""
        now = time.monotonic()
        lag = now - due if due is not None else 0.0
        block.set(TransceiverCounter.LOOP_LAG_US, max(0, round(lag * 1e6)))
        if due is not None and self._registry is not None:
            self._registry.figures.loop_lag.observe(max(0.0, lag))
        block.set(TransceiverCounter.FRAME_LATENESS_P99_US, round(pacer.lateness(0.99) * 1e6))
        block.set(TransceiverCounter.OVERLOADED, int(registry.overloaded))
        if self._mux is not None:
            self._mux.note_overflows()
        block.own()
        drain.look(now)
        due = now + HEARTBEAT_S
        self._loop.call_at(due, self._beat, block, pacer, registry, drain, due)

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


async def _nobody(session: Session) -> None:
    """The agent of an ASGI app, whose calls are not sessions of ours."""


def main(settings: TransceiverSettings, lifeline: Lifeline | None = None) -> None:
    """Run until the end; `lifeline`: to whoever supervises, if not by the settings' descriptor."""
    if settings.parent:
        die_with_parent(settings.parent)
    if settings.pin:
        pin(settings.slot)
    logs.set_up(f"transceiver {settings.slot}", settings.log_level, settings.log_format)
    supervised = lifeline or Lifeline(settings.lifeline)

    async def run() -> None:
        app: App | AsgiApp
        backend: Backend | None = None
        try:
            if settings.backend:
                app, backend = backend_app(settings)
            else:
                app = load_app(settings.app)
            if not isinstance(app, App):
                require_asgi()
            refusal = objection(settings, asgi=not isinstance(app, App))
            if refusal:
                raise AppError(refusal)
            await seam.self_test()
        except (AppError, seam.SeamBroken) as exc:
            supervised.fail(str(exc))
            raise SystemExit(2) from None
        gc.collect()
        gc.freeze()  # what was imported lives for ever; collections need not look at it
        gc.set_threshold(*THRESHOLDS)
        await TransceiverProcess(settings, app, supervised).run()
        if backend is not None:
            await backend.close()

    uvloop.run(run())
