"""Ours: the real control and relay processes; fleet.py and the C sink stand where transceivers are."""

import contextlib
import json
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from bench.relay.contenders import HERE, Contender
from bench.relay.world import (
    HOST,
    READY_S,
    TRANSCEIVERS,
    Flows,
    NotAvailable,
    Target,
    free_udp_port,
)
from voicerelay.cli.network import join_public_sockets, open_public_sockets
from voicerelay.control.process import ControlSettings
from voicerelay.relay import steering
from voicerelay.relay.process import RelaySettings
from voicerelay.relay.steering import SteeredGroup
from voicerelay.shm import rundir
from voicerelay.shm.bpf import BpfUnavailable
from voicerelay.shm.frame import MAX_FRAME_BYTES
from voicerelay.shm.region import Sizes
from voicerelay.shm.ufrag import UFRAG_BYTES

CAPACITY = 16_384  # sessions, the default of `voicerelay start`
_PRIMER = b"\x80" + bytes(31)  # goes by its flow; the bench throws it away


class OursPortable(Contender):
    key = "portable"
    title = "**voicerelay, portable**"
    relay_settings: ClassVar[
        Mapping[str, Any]
    ] = {}  # over RelaySettings' defaults, from --relay-set

    def __init__(self, programs: Path, scratch: Path, cpu: int) -> None:
        super().__init__(programs, scratch, cpu)
        self._close = contextlib.ExitStack()
        self._run_dir = Path(tempfile.mkdtemp(prefix="voicerelay-bench-"))  # Unix paths are short
        self._close.callback(shutil.rmtree, self._run_dir, ignore_errors=True)
        self._close.callback(rundir.clean, self._run_dir)  # the shared memory, once all are gone

    def launch(self, flows: Flows) -> Target:
        port = free_udp_port()
        public = open_public_sockets([HOST], port, 1)
        control = self._control(public, [], [])
        fleet, listeners = self._fleet(flows)
        relay = self._relay()
        links = [_link(flows, slot, port, listener) for slot, listener in enumerate(listeners)]
        pids = [relay], [control, fleet]
        return Target([(HOST, port)], links, *pids, self._ufrags(), framed=True)

    def stop(self) -> None:
        super().stop()
        self._close.close()

    def _control(
        self,
        relays: list[list[socket.socket]],
        transceivers: list[list[socket.socket]],
        groups: Sequence[SteeredGroup],
    ) -> int:
        """Start control; it holds the relay's socket from then on."""
        steering = [asdict(group) for group in groups]
        fds = [sock.fileno() for (sock,) in relays + transceivers]
        fds += [fd for group in steering for fd in group.values()]
        pid = self._child(
            "voicerelay.control",
            fds,
            lambda lifeline: ControlSettings(
                str(self._run_dir),
                secrets.token_hex(16),
                CAPACITY,
                sockets=[[sock.fileno()] for (sock,) in relays],
                transceiver_sockets=[[sock.fileno()] for (sock,) in transceivers],
                steering=steering,
                lifeline=lifeline,
            ),
        )
        for (sock,) in relays:
            sock.close()
        return pid

    def _relay(self) -> int:
        return self._child(
            "voicerelay.relay",
            [],
            lambda lifeline: RelaySettings(
                str(self._run_dir), 0, lifeline=lifeline, **self.relay_settings
            ),
        )

    def _child(
        self,
        module: str,
        fds: list[int],
        settings: Callable[[int], ControlSettings | RelaySettings],
    ) -> int:
        """Start a process as the supervisor does and wait until it says that it is ready."""
        here, there = socket.socketpair()
        with there:
            lifeline = there.fileno()
            text = json.dumps(asdict(settings(lifeline)))
            command = [sys.executable, "-P", "-m", module, text]
            child = self.processes.start(command, [lifeline, *fds], self.scratch / "log")
        self._close.callback(here.close)
        here.settimeout(READY_S)
        if not here.recv(64).startswith(b"ready"):
            raise NotAvailable(f"{module} did not start: {self._log()}")
        return child.pid

    def _log(self) -> str:
        return (self.scratch / "log").read_text().strip().rpartition("\n")[2]

    def _ufrags(self) -> list[bytes]:
        """What the stand-in transceivers registered, a flow each."""
        raw = (self._run_dir / "ufrags").read_bytes()
        return [raw[at : at + UFRAG_BYTES] for at in range(0, len(raw), UFRAG_BYTES)]

    def _fleet(self, flows: Flows) -> tuple[int, list[socket.socket]]:
        here, there = socket.socketpair()
        with there:
            settings = {
                "run_dir": str(self._run_dir),
                "slots": TRANSCEIVERS,
                "fd": there.fileno(),
                "clients": [(flow, flows.host(flow), flows.port) for flow in range(flows.count)],
            }
            command = [sys.executable, "-P", str(HERE / "fleet.py"), json.dumps(settings)]
            child = self.processes.start(command, [there.fileno()], self.scratch / "log")
        self._close.callback(here.close)
        here.settimeout(READY_S)
        _, fds, _, _ = socket.recv_fds(here, 64, TRANSCEIVERS)
        if len(fds) != TRANSCEIVERS:
            raise NotAvailable(f"the stand-in transceivers failed: {self._log()}")
        return child.pid, [socket.socket(fileno=fd) for fd in fds]


def _link(flows: Flows, slot: int, port: int, listener: socket.socket) -> socket.socket:
    """Have the relay open its link to a transceiver, with one packet that is thrown away."""
    listener.settimeout(READY_S)
    with listener, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind((flows.host(slot), flows.port))
        client.sendto(_PRIMER, (HOST, port))
        link, _ = listener.accept()
    link.settimeout(READY_S)
    link.recv(MAX_FRAME_BYTES + 1)
    return link


class OursPython(OursPortable):
    """As it runs where no C compiler was there at the installation."""

    key = "portable_python"
    title = "voicerelay, portable, its loop in Python"
    relay_settings: ClassVar[Mapping[str, Any]] = {"compiled": False}


class OursPortableStun(OursPortable):
    key = "portable_stun"
    title = "**voicerelay, portable**, 10% STUN"
    stun_percent = 10


class OursSteering(OursPortable):
    """The transceivers' own sockets on the public port are the sinks; the relay sees no packet."""

    key = "steering"
    title = "**voicerelay, kernel steering**"

    def launch(self, flows: Flows) -> Target:
        port = free_udp_port()
        public = open_public_sockets([HOST], port, 1)
        own = join_public_sockets([HOST], port, TRANSCEIVERS)
        try:
            groups = steering.load(public, own, Sizes.for_capacity(CAPACITY))
        except BpfUnavailable as exc:
            raise NotAvailable(str(exc)) from None
        for group in groups:
            self._close.callback(group.close)
        control = self._control(public, own, groups)
        fleet, listeners = self._fleet(flows)
        for listener in listeners:
            listener.close()
        sinks = [sock for (sock,) in own]
        pids = [self._relay()], [control, fleet]
        return Target([(HOST, port)], sinks, *pids, self._ufrags(), holdable=False)
