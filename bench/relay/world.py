"""What every contender stands in: the flows, free ports, sinks, and processes that end with the run."""

import ctypes
import ipaddress
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

FIRST_CLIENT = int(ipaddress.IPv4Address("127.16.4.0"))
TRANSCEIVERS = 4
HOST = "127.0.0.1"
BUFFER_BYTES = 8 << 20
READY_S = 10.0
# Below the ephemeral ports, from which nginx and coturn take their own.
_PORTS = range(10_000, 30_000)
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


@dataclass(frozen=True)
class Flows:
    """Flow i is the client at `address(i)`; transceiver i % TRANSCEIVERS owns it."""

    count: int
    port: int

    def host(self, flow: int) -> str:
        return str(ipaddress.IPv4Address(FIRST_CLIENT + flow))

    def ufrag(self, flow: int) -> bytes:
        """For relays that do not route by it."""
        return b"%020d" % flow


@dataclass
class Target:
    """A started contender: where flows send to, where they come out, which processes to charge."""

    addresses: list[tuple[str, int]]
    sinks: list[socket.socket]
    relay_pids: list[int] = field(default_factory=list)
    other_pids: list[int] = field(default_factory=list)  # charged to the whole path only
    ufrags: list[bytes] = field(default_factory=list)
    framed: bool = False
    channel_data: bool = False
    window: int = 2048  # packets under way when saturated; below what its receive queue holds
    holdable: bool = (
        True  # packets pass through the relay's processes, which may be stopped a moment
    )


class NotAvailable(Exception):
    """A contender cannot run here; the message says what would help."""


def free_udp_port() -> int:
    """A port nobody has on any local IPv4 address."""
    for port in random.sample(_PORTS, 200):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
            return port
    raise SystemExit("no free UDP port")


def enlarge(sock: socket.socket) -> None:
    """Large queues, beyond the system's limit when permitted."""
    for force, plain in (
        (_SO_RCVBUFFORCE, socket.SO_RCVBUF),
        (_SO_SNDBUFFORCE, socket.SO_SNDBUF),
    ):
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, BUFFER_BYTES)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, plain, BUFFER_BYTES)


def udp_sinks() -> list[socket.socket]:
    """A socket for each transceiver, for relays that send plain datagrams."""
    sinks = []
    for _ in range(TRANSCEIVERS):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        enlarge(sock)
        sock.bind((HOST, free_udp_port()))
        sinks.append(sock)
    return sinks


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


class Processes:
    """The children of one contender: pinned to a core, ended by pid, gone with this process."""

    def __init__(self, cpu: int) -> None:
        self._cpu = cpu
        self._running: list[subprocess.Popen[bytes]] = []

    def start(
        self, command: Sequence[str], fds: Sequence[int] = (), log: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """Run a command; `log` gets what it says."""
        output = log.open("ab") if log else None

        def prepare() -> None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            os.sched_setaffinity(0, {self._cpu})

        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                pass_fds=fds,
                preexec_fn=prepare,  # noqa: PLW1509 - no thread runs here
            )
        finally:
            if output:
                output.close()
        self._running.append(child)
        return child

    def stop(self) -> None:
        """The last one first; by force after two seconds."""
        for child in reversed(self._running):
            child.send_signal(signal.SIGCONT)  # an aborted run may have left it stopped
            child.terminate()
            try:
                child.wait(2)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._running.clear()


def wait_bound(child: subprocess.Popen[bytes], port: int) -> None:
    """Until somebody has the UDP port. Raises NotAvailable when the child ends instead."""
    wanted = f"0100007F:{port:04X}"
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if wanted in Path("/proc/net/udp").read_text():
            return
        if child.poll() is not None:
            break
        time.sleep(0.02)
    raise NotAvailable(f"{Path(str(child.args[0])).name} did not start")  # type: ignore[index]
