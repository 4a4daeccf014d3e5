"""The supervisor: owns the public sockets and the processes, restarts what dies, and does nothing else."""

import asyncio
import contextlib
import json
import logging
import os
import secrets
import signal
import socket
from collections.abc import Callable
from dataclasses import asdict

from voicerelay import __version__
from voicerelay.cli import network
from voicerelay.cli.admin.settings import AdminSettings
from voicerelay.cli.child import Child
from voicerelay.cli.config import Config
from voicerelay.cli.errors import UserError
from voicerelay.cli.steered import Steering
from voicerelay.control.process import ControlSettings
from voicerelay.relay.process import RelaySettings
from voicerelay.shm import rundir
from voicerelay.shm.region import INSTANCE_BYTES, Region, RegionMismatch, Sizes
from voicerelay.transceiver.settings import AccessSettings, TransceiverSettings

READY_TIMEOUT_S = 60.0  # importing FastRTC takes a core 7 s, and each transceiver does it
STOP_TIMEOUT_S = 4.0
CONTROL_LOOK_S = 0.25
CONTROL_HUNG_LOOKS = 6  # looks at a heartbeat that stands still before control is ended

log = logging.getLogger("voicerelay")


class Supervisor:
    """Runs one instance from start to clean stop."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = rundir.InstanceLock(config.run_dir)
        self._instance = secrets.token_bytes(INSTANCE_BYTES)
        self._sockets: list[list[socket.socket]] = []
        self._steering = Steering()
        self._children: list[Child] = []
        self._stopping = False
        self.hosts: list[str] = []
        self.candidates: list[tuple[str, int]] = []

    def prepare(self) -> bool:
        """Take the lock, remove leftovers, open the sockets; True when there were leftovers.

        Raises UserError.
        """
        config = self._config
        try:
            config.run_dir.mkdir(mode=rundir.DIRECTORY_MODE, parents=True, exist_ok=True)
            if config.run_dir.stat().st_uid != os.geteuid():
                raise UserError(f"{config.run_dir} is another user's; choose another --run-dir")
            locked = self._lock.acquire()
        except OSError as exc:
            raise UserError(
                f"cannot use {config.run_dir}: {exc.strerror}; choose another --run-dir"
            ) from None
        if not locked:
            raise UserError(
                f"an instance runs already (pid {self._lock.holder()}, {config.run_dir}); "
                "stop it or choose another --port"
            )
        try:
            leftovers = rundir.clean(config.run_dir)
            self.hosts = network.expand(list(config.listen))
            hosts = network.candidate_hosts(self.hosts, list(config.public_ip))
            self.candidates = [(host, config.port) for host in hosts]
            network.check_http(config.http_host, config.http_port)
            self._sockets = network.open_public_sockets(self.hosts, config.port, config.relays)
            if config.steering != "off":
                self._steer()
        except UserError:
            self.release()
            raise
        self._write_instance_file()
        return leftovers

    @property
    def steered(self) -> bool:
        """Whether kernel steering is on."""
        return bool(self._steering.groups)

    @property
    def portable_because(self) -> str:
        """Why it is not; empty when it is."""
        return self._steering.portable_because

    def _steer(self) -> None:
        config, steering = self._config, self._steering
        sizes = Sizes.for_capacity(config.capacity)
        steering.turn_on(self._sockets, self.hosts, config.port, config.transceivers, sizes)
        if config.steering == "on" and not self.steered:
            raise UserError(f"--steering on: {self.portable_because}")
        steering.pin(rundir.pins(config.run_dir))

    def _look_at_buffers(self) -> int:
        """Bytes of the smallest receive buffer of a public socket; says so when it is too small."""
        size = network.receive_buffer_bytes(self._sockets + self._steering.sockets)
        if size < network.RECEIVE_BUFFER_BYTES:
            log.warning(
                "receive buffers have %d of %d bytes; sysctl -w net.core.rmem_max=%d gives them all",
                size,
                network.RECEIVE_BUFFER_BYTES,
                network.RECEIVE_BUFFER_BYTES,
            )
        return size

    def release(self) -> None:
        """Close the sockets and leave nothing behind."""
        network.close_all(self._sockets)
        self._steering.release()
        rundir.remove(self._config.run_dir)
        self._lock.release()

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Start everything, call `on_ready`, and serve until SIGINT or SIGTERM.

        Raises UserError when a process cannot start.
        """
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        try:
            stopped = loop.create_task(stop.wait())
            started = loop.create_task(self._start_all())
            await asyncio.wait({stopped, started}, return_when=asyncio.FIRST_COMPLETED)
            if started.done():
                started.result()
                on_ready()
                await stopped
            else:
                started.cancel()
        finally:
            stopped.cancel()
            await self._stop_all()

    async def _start_all(self) -> None:
        config = self._config
        fds = [s.fileno() for group in self._sockets + self._steering.sockets for s in group]
        fds += [fd for group in self._steering.groups for fd in asdict(group).values()]
        control = self._child("control", "voicerelay.control", self._control_settings, fds)
        await self._begin([control])
        relays = [
            self._child(f"relay {i}", "voicerelay.relay", self._relay_settings(i))
            for i in range(config.relays)
        ]
        transceivers = [
            self._child(f"transceiver {i}", "voicerelay.transceiver", self._transceiver_settings(i))
            for i in range(config.transceivers)
        ]
        admin = []
        if config.admin_address is not None:
            admin = [self._child("admin", "voicerelay.cli.admin", self._admin_settings)]
        await self._begin(relays + transceivers + admin)
        self._watch_control(control)

    async def _begin(self, children: list[Child]) -> None:
        """Start children and wait until each is ready. Raises UserError."""
        for child in children:
            child.start()
        done, pending = await asyncio.wait(
            [asyncio.ensure_future(self._report_of(child)) for child in children],
            timeout=READY_TIMEOUT_S,
            return_when=asyncio.FIRST_EXCEPTION,
        )
        for task in pending:
            task.cancel()
        for task in done:
            task.result()
        if pending:
            raise UserError(f"not every process was ready within {READY_TIMEOUT_S:.0f} s")

    async def _report_of(self, child: Child) -> None:
        reason = await asyncio.shield(child.reported)
        if reason:
            raise UserError(f"{child.name}: {reason}")

    def _child(
        self, name: str, module: str, settings: Callable[[int], str], fds: list[int] | None = None
    ) -> Child:
        child = Child(name, module, settings, fds or [], self._child_ended)
        self._children.append(child)
        return child

    def _child_ended(self, child: Child, code: int) -> None:
        if not self._stopping:
            why = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            about = {"about": child.name}
            log.warning("%s ended (%s), starting it again", child.name, why, extra=about)

    def _watch_control(self, control: Child) -> None:
        """Control watches everybody; this watches control, as a WatchdogSec would."""
        try:
            region = Region.attach(rundir.region_name(self._config.run_dir), self._instance)
        except RegionMismatch as exc:
            raise UserError(f"control: the shared tables are not usable: {exc}") from None
        loop = asyncio.get_running_loop()
        block = region.counters.control()
        last, still = 0, 0

        def look() -> None:
            nonlocal last, still
            beat = block.heartbeat_ns
            last, still = beat, 0 if beat != last else still + 1
            if still == CONTROL_HUNG_LOOKS and not self._stopping:
                log.warning("control hangs; ended so that it is replaced")
                control.send_signal(signal.SIGKILL)
                still = 0
            loop.call_later(CONTROL_LOOK_S, look)

        look()

    async def _stop_all(self) -> None:
        """Transceivers before relays, so that they can say goodbye; control last."""
        self._stopping = True
        groups = [
            [c for c in self._children if c.name == "admin"],
            [c for c in self._children if c.name.startswith("transceiver")],
            [c for c in self._children if c.name.startswith("relay")],
            [c for c in self._children if c.name == "control"],
        ]
        for child in self._children:
            child.stop(signal.SIGCONT)  # marks it as stopping; wakes one that is stopped
        for group in groups:
            for child in group:
                child.stop()
            waits = [asyncio.ensure_future(child.exited.wait()) for child in group]
            if not waits:
                continue
            _, late = await asyncio.wait(waits, timeout=STOP_TIMEOUT_S)
            if late:
                for child in group:
                    child.stop(signal.SIGKILL)
                await asyncio.wait(late)

    def _control_settings(self, lifeline: int) -> str:
        config = self._config
        return json.dumps(
            asdict(
                ControlSettings(
                    run_dir=str(config.run_dir),
                    instance=self._instance.hex(),
                    capacity=config.capacity,
                    sockets=_fds_of(self._sockets),
                    transceiver_sockets=_fds_of(self._steering.sockets),
                    steering=[asdict(group) for group in self._steering.groups],
                    lifeline=lifeline,
                    log_level=config.log_level,
                    log_format=config.log_format,
                )
            )
        )

    def _relay_settings(self, index: int) -> Callable[[int], str]:
        config = self._config
        return lambda lifeline: json.dumps(
            asdict(
                RelaySettings(
                    run_dir=str(config.run_dir),
                    index=index,
                    coalesce_us=config.coalesce_us,
                    lifeline=lifeline,
                    parent=os.getpid(),
                    log_level=config.log_level,
                    log_format=config.log_format,
                )
            )
        )

    def _transceiver_settings(self, slot: int) -> Callable[[int], str]:
        config = self._config
        access = AccessSettings(
            api_key_file=str(config.api_key_file or ""),
            cors_origins=list(config.cors_origins),
            open=config.open,
            sessions_per_key=config.sessions_per_key,
        )
        return lambda lifeline: json.dumps(
            asdict(
                TransceiverSettings(
                    run_dir=str(config.run_dir),
                    slot=slot,
                    app=config.app,
                    http_host=config.http_host,
                    http_port=config.http_port,
                    candidates=self.candidates,
                    max_sessions=config.max_sessions,
                    ice_servers_file=str(config.ice_servers or ""),
                    access=access,
                    pin=config.pin,
                    lifeline=lifeline,
                    parent=os.getpid(),
                    log_level=config.log_level,
                    log_format=config.log_format,
                    backend=config.backend,
                    backend_key_file=config.backend_key_file,
                    backend_vad=config.backend_vad,
                    call_records=config.call_records,
                )
            )
        )

    def _admin_settings(self, lifeline: int) -> str:
        config = self._config
        assert config.admin_address is not None
        host, port = config.admin_address
        settings = AdminSettings(
            run_dir=str(config.run_dir),
            host=host,
            port=port,
            lifeline=lifeline,
            parent=os.getpid(),
            log_level=config.log_level,
            log_format=config.log_format,
        )
        return json.dumps(asdict(settings))

    def _write_instance_file(self) -> None:
        config = self._config
        described = {
            "version": __version__,
            "pid": os.getpid(),
            "app": config.agent,
            "port": config.port,
            "listen": self.hosts,
            "http": network.host_port(config.http_host, config.http_port),
            "plane": "steering" if self.steered else "portable",
            "portable_because": self.portable_because,
            "unpinned_because": self._steering.unpinned_because,
            "receive_buffer_bytes": self._look_at_buffers(),
            "relays": config.relays,
            "transceivers": config.transceivers,
        }
        with contextlib.suppress(OSError):
            (config.run_dir / rundir.INSTANCE_FILE).write_text(json.dumps(described))


def _fds_of(sockets: list[list[socket.socket]]) -> list[list[int]]:
    return [[sock.fileno() for sock in group] for group in sockets]
