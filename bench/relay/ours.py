"""Ours: the real control and relay processes; fleet.py and the C sink stand where transceivers are."""

import contextlib
import importlib.util
import json
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Mapping
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
from voicerelay.cli.network import open_public_sockets
from voicerelay.control.process import ControlSettings
from voicerelay.relay.process import RelaySettings
from voicerelay.shm.frame import MAX_FRAME_BYTES
from voicerelay.shm.ufrag import UFRAG_BYTES

CAPACITY = 16_384  # sessions, the default of `voicerelay start`
_PRIMER = b"\x80" + bytes(31)  # goes by its flow; the bench throws it away


class OursPortable(Contender):
    key = "portable"
    title = "**voicerelay, portable**"
    relay_settings: ClassVar[
        Mapping[str, Any]
    ] = {}  # over RelaySettings' defaults, from --relay-set

    def launch(self, flows: Flows) -> Target:
        self._close = contextlib.ExitStack()
        run_dir = Path(tempfile.mkdtemp(prefix="voicerelay-bench-"))  # Unix paths must be short
        self._close.callback(shutil.rmtree, run_dir, ignore_errors=True)
        port = free_udp_port()
        (public,) = open_public_sockets([HOST], port, 1)
        control = self._child("voicerelay.control", public[0].fileno(), run_dir)
        public[0].close()
        fleet, listeners = self._fleet(flows, run_dir)
        relay = self._child("voicerelay.relay", None, run_dir)
        raw = (run_dir / "ufrags").read_bytes()
        return Target(
            [(HOST, port)],
            [_link(flows, slot, port, listener) for slot, listener in enumerate(listeners)],
            [relay],
            [control, fleet],
            [raw[at : at + UFRAG_BYTES] for at in range(0, len(raw), UFRAG_BYTES)],
            framed=True,
        )

    def stop(self) -> None:
        super().stop()
        self._close.close()

    def _child(self, module: str, public: int | None, run_dir: Path) -> int:
        """Start control (with the public socket) or the relay; wait until it is ready."""
        here, there = socket.socketpair()
        with there:
            lifeline = there.fileno()
            settings: ControlSettings | RelaySettings
            if public is not None:
                instance = secrets.token_hex(16)
                settings = ControlSettings(
                    str(run_dir), instance, CAPACITY, [[public]], lifeline=lifeline
                )
            else:
                settings = RelaySettings(str(run_dir), 0, lifeline=lifeline, **self.relay_settings)
            fds = [lifeline] if public is None else [lifeline, public]
            command = [sys.executable, "-P", "-m", module, json.dumps(asdict(settings))]
            child = self.processes.start(command, fds, self.scratch / "log")
        self._close.callback(here.close)
        here.settimeout(READY_S)
        if not here.recv(64).startswith(b"ready"):
            raise NotAvailable(f"{module} did not start: {self.scratch / 'log'}")
        return child.pid

    def _fleet(self, flows: Flows, run_dir: Path) -> tuple[int, list[socket.socket]]:
        here, there = socket.socketpair()
        with there:
            settings = {
                "run_dir": str(run_dir),
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
            raise NotAvailable(f"the stand-in transceivers failed: {self.scratch / 'log'}")
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


class OursPortableStun(OursPortable):
    key = "portable_stun"
    title = "**voicerelay, portable**, 10% STUN"
    stun_percent = 10


class OursSteering(OursPortable):
    """The plug for kernel steering.

    The transceivers' own SO_REUSEPORT sockets on the public port receive the clients' packets, so
    the sinks are these UDP sockets, not framed, and the relay process should see none of them.
    `launch` takes the same steps as the portable plane; what it needs from the product is a call
    that makes the BPF program and gives it the sockets and flows.
    """

    key = "steering"
    title = "**voicerelay, kernel steering**"

    def launch(self, flows: Flows) -> Target:
        self._close = contextlib.ExitStack()
        if importlib.util.find_spec("voicerelay.relay.steering") is None:
            raise NotAvailable("voicerelay.relay.steering does not exist yet")
        raise NotAvailable("the plug is not connected yet: bench/relay/ours.py, OursSteering")
