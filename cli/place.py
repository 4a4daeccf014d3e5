"""What an instance holds beside its processes, and what outlives them: its lock, sockets, program and maps."""

import logging
import os
import secrets
import socket
from dataclasses import asdict
from typing import Any

from voicerelay import __version__
from voicerelay.cli import network, roles
from voicerelay.cli.config import Config
from voicerelay.cli.errors import UserError
from voicerelay.cli.steered import Steering
from voicerelay.cli.succession import FORMAT, Estate
from voicerelay.relay.steering import SteeredGroup
from voicerelay.shm import rundir
from voicerelay.shm.counters import MAX_TRANSCEIVERS
from voicerelay.shm.protocol import PROTOCOL
from voicerelay.shm.region import ABI, INSTANCE_BYTES, Sizes

SLOTS_PER_TRANSCEIVER = 3  # one runs, one drains, one more for a reload meanwhile

log = logging.getLogger("voicerelay")


class Place:
    """`sockets[relay]`: one a listen address; `candidates`: what clients are told of each."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.lock = rundir.InstanceLock(config.run_dir)
        self.instance = secrets.token_bytes(INSTANCE_BYTES)
        self.sockets: list[list[socket.socket]] = []
        self.steering = Steering()
        self.hosts: list[str] = []
        self.candidates: list[tuple[str, int]] = []

    @classmethod
    def inherit(cls, config: Config, estate: Estate) -> "Place":
        """The place of an earlier supervisor in this very process."""
        place = cls(config)
        if not place.lock.inherit(estate.lock):
            raise UserError(f"{config.run_dir}: the lock is another instance's by now")
        place.instance = bytes.fromhex(estate.instance)
        place.hosts = estate.hosts
        place.candidates = [(host, port) for host, port in estate.candidates]
        place.sockets = _sockets_of(estate.sockets)
        place.steering.sockets = _sockets_of(estate.transceiver_sockets)
        place.steering.groups = [SteeredGroup(**group) for group in estate.steering]
        place.steering.portable_because = estate.portable_because
        place.steering.unpinned_because = estate.unpinned_because
        return place

    def bequeath(self, **more: Any) -> Estate:
        """What `inherit` needs, and `more` of an estate."""
        return Estate(
            format=FORMAT,
            version=__version__,
            abi=ABI,
            protocol=PROTOCOL,
            instance=self.instance.hex(),
            hosts=self.hosts,
            candidates=[list(candidate) for candidate in self.candidates],
            sockets=fds_of(self.sockets),
            transceiver_sockets=fds_of(self.steering.sockets),
            steering=[asdict(group) for group in self.steering.groups],
            portable_because=self.steering.portable_because,
            unpinned_because=self.steering.unpinned_because,
            lock=self.lock.fileno(),
            **more,
        )

    def take(self) -> bool:
        """Take the lock, remove leftovers, open the sockets; True when there were leftovers.

        Raises UserError.
        """
        config = self._config
        self._take_lock()
        try:
            leftovers = rundir.clean(config.run_dir)
            self.hosts = network.expand(list(config.listen))
            hosts = network.candidate_hosts(self.hosts, list(config.public_ip))
            self.candidates = [(host, config.port) for host in hosts]
            network.check_http(config.http_host, config.http_port)
            self.sockets = network.open_public_sockets(self.hosts, config.port, config.relays)
            if config.steering != "off":
                self._steer()
        except UserError:
            self.release()
            raise
        return leftovers

    @property
    def fds(self) -> list[int]:
        """Every descriptor that control inherits."""
        fds = [s.fileno() for group in self.sockets + self.steering.sockets for s in group]
        return fds + [fd for group in self.steering.groups for fd in asdict(group).values()]

    @property
    def steered(self) -> bool:
        """Whether kernel steering is on."""
        return bool(self.steering.groups)

    def release(self) -> None:
        """Close the sockets and leave nothing behind."""
        network.close_all(self.sockets)
        self.steering.release()
        rundir.remove(self._config.run_dir)
        self.lock.release()

    def describe(self, config: Config, **more: Any) -> None:
        """Write the instance file, for `status`."""
        roles.describe(
            config,
            self.hosts,
            plane="steering" if self.steered else "portable",
            portable_because=self.steering.portable_because,
            unpinned_because=self.steering.unpinned_because,
            receive_buffer_bytes=self.receive_buffer_bytes,
            transceiver_sockets=len(self.steering.sockets),
            **more,
        )

    @property
    def receive_buffer_bytes(self) -> int:
        """Of the smallest receive buffer of a public socket."""
        return network.receive_buffer_bytes(self.sockets + self.steering.sockets)

    def look_at_buffers(self) -> None:
        """Say so when they are too small."""
        size = self.receive_buffer_bytes
        if size < network.RECEIVE_BUFFER_BYTES:
            log.warning(
                "receive buffers have %d of %d bytes; sysctl -w net.core.rmem_max=%d gives them all",
                size,
                network.RECEIVE_BUFFER_BYTES,
                network.RECEIVE_BUFFER_BYTES,
            )

    def _take_lock(self) -> None:
        run_dir = self._config.run_dir
        try:
            run_dir.mkdir(mode=rundir.DIRECTORY_MODE, parents=True, exist_ok=True)
            if run_dir.stat().st_uid != os.geteuid():
                raise UserError(f"{run_dir} is another user's; choose another --run-dir")
            locked = self.lock.acquire()
        except OSError as exc:
            raise UserError(
                f"cannot use {run_dir}: {exc.strerror}; choose another --run-dir"
            ) from None
        if not locked:
            raise UserError(
                f"an instance runs already (pid {self.lock.holder()}, {run_dir}); "
                "stop it or choose another --port"
            )

    def _steer(self) -> None:
        config, steering = self._config, self.steering
        sizes = Sizes.for_capacity(config.capacity)
        slots = min(MAX_TRANSCEIVERS, SLOTS_PER_TRANSCEIVER * config.transceivers)
        steering.turn_on(self.sockets, self.hosts, config.port, slots, sizes)
        if config.steering == "on" and not self.steered:
            raise UserError(f"--steering on: {steering.portable_because}")
        steering.pin(rundir.pins(config.run_dir))


def fds_of(sockets: list[list[socket.socket]]) -> list[list[int]]:
    """Their descriptors, in the same order."""
    return [[sock.fileno() for sock in group] for group in sockets]


def _sockets_of(fds: list[list[int]]) -> list[list[socket.socket]]:
    return [[socket.socket(fileno=fd) for fd in group] for group in fds]
