"""Control under a service manager: the sockets it is given, what the manager keeps for its successor."""

import contextlib
import socket
from dataclasses import asdict

from voicerelay.cli import network
from voicerelay.cli.config import Config
from voicerelay.cli.errors import UserError
from voicerelay.cli.place import fds_of
from voicerelay.cli.roles import describe
from voicerelay.cli.units import LOCK, socket_name
from voicerelay.cli.unsupervised import SYSTEMD
from voicerelay.control.process import ControlSettings
from voicerelay.relay import steering
from voicerelay.relay.steering import STEERED_NAMES, SteeredGroup
from voicerelay.shm import rundir
from voicerelay.shm.bpf import BpfUnavailable
from voicerelay.shm.notify import Managed
from voicerelay.shm.region import Sizes

_AGAIN = "run `voicerelay systemd install` again, and restart voicerelay.target"

Sockets = list[list[socket.socket]]  # [process][listen address]


class Inheritance:
    """What control finds at its start; `settings()` hands it on. Raises UserError."""

    def __init__(self, config: Config, managed: Managed) -> None:
        self._config = config
        self._managed = managed
        self._lock = rundir.InstanceLock(config.run_dir)
        self.hosts: list[str] = []
        self.groups: list[SteeredGroup] = []
        self.relays: Sockets = []
        self.transceivers: Sockets = []
        try:
            self._take()
        except UserError:
            self.release()
            raise

    def _take(self) -> None:
        config = self._config
        self._take_lock()
        self.relays = self._sockets("relay")
        self.transceivers = self._sockets("transceiver")
        if len(self.relays) != config.relays:
            raise UserError(
                f"the units have sockets for {len(self.relays)} relays, the configuration has "
                f"{config.relays} relays; {_AGAIN}"
            )
        self.hosts = [sock.getsockname()[0] for sock in self.relays[0]]
        self._check_sockets()
        if self.transceivers:
            self._steer()

    def settings(self) -> ControlSettings:
        """For control, once the instance file is written."""
        config = self._config
        describe(
            config,
            self.hosts,
            plane="steering" if self.groups else "portable",
            portable_because="" if self.groups else "--steering is off in the units",
            transceiver_sockets=len(self.transceivers),
            receive_buffer_bytes=network.receive_buffer_bytes(self.relays + self.transceivers),
            manager=SYSTEMD,
        )
        return ControlSettings(
            run_dir=str(config.run_dir),
            instance="",
            capacity=config.capacity,
            sockets=fds_of(self.relays),
            transceiver_sockets=fds_of(self.transceivers),
            steering=[asdict(group) for group in self.groups],
            log_level=config.log_level,
            log_format=config.log_format,
        )

    def release(self) -> None:
        """Close what is held here; what the manager keeps stays."""
        network.close_all(self.relays + self.transceivers)
        for group in self.groups:
            group.close()
        self._lock.release()

    def _take_lock(self) -> None:
        """The manager keeps the descriptor, so that the instance counts as running while control does not."""
        config = self._config
        try:
            config.run_dir.mkdir(mode=rundir.DIRECTORY_MODE, parents=True, exist_ok=True)
            kept = self._managed.fds.pop(LOCK, [])
            if len(kept) == 1 and self._lock.inherit(kept[0]):
                return
            self._managed.forget(LOCK)
            if not self._lock.acquire():
                raise UserError(
                    f"an instance runs already (pid {self._lock.holder()}, {config.run_dir})"
                )
        except OSError as exc:
            raise UserError(f"cannot use {config.run_dir}: {exc.strerror}") from None
        self._managed.keep(LOCK, [self._lock.fileno()])

    def _sockets(self, role: str) -> Sockets:
        found: Sockets = []
        while fds := self._managed.fds.pop(socket_name(role, len(found)), None):
            found.append([socket.socket(fileno=fd) for fd in fds])
        return found

    def _check_sockets(self) -> None:
        """What the units bound must be what the configuration names."""
        config = self._config
        for group in self.relays + self.transceivers:
            names = [sock.getsockname()[:2] for sock in group]
            if names != [(host, config.port) for host in self.hosts]:
                raise UserError(f"the units have other sockets than UDP {config.port}; {_AGAIN}")
        for wanted in config.listen:
            if wanted not in (*self.hosts, "0.0.0.0", "::"):
                raise UserError(f"the units have no socket for --listen {wanted}; {_AGAIN}")
        slots = len(self.transceivers)
        if slots not in (0, config.transceivers) or (config.steering, slots) in (("on", 0),):
            raise UserError(f"the units do not fit --transceivers or --steering; {_AGAIN}")

    def _steer(self) -> None:
        """The program and maps that the manager kept, else new ones, which it is to keep."""
        sizes = Sizes.for_capacity(self._config.capacity)
        fds = self._managed.fds
        kept = [
            {name: fd for name in STEERED_NAMES for fd in fds.pop(_kept_name(local, name), [])}
            for local in range(len(self.hosts))
        ]
        try:
            if any(kept):
                with contextlib.suppress(BpfUnavailable):
                    self.groups = steering.take_over(kept, self.relays, self.transceivers, sizes)
                    return
            self.groups = steering.load(self.relays, self.transceivers, sizes)
        except BpfUnavailable as exc:
            raise UserError(f"--steering: {exc}") from None
        for local, group in enumerate(self.groups):
            for name, fd in asdict(group).items():
                self._managed.forget(_kept_name(local, name))
                self._managed.keep(_kept_name(local, name), [fd])


def _kept_name(local: int, name: str) -> str:
    return f"steering-{local}-{name}"
