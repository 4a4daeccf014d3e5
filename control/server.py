"""Control's I/O shell: the Unix socket, credentials, deadlines, and the carrying out of decisions."""

import asyncio
import logging
import os
import signal
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from voicerelay.control.peer import Action, Close, Kill, Send
from voicerelay.control.state import ControlState
from voicerelay.shm import protocol
from voicerelay.shm.channel import Channel
from voicerelay.shm.protocol import Message
from voicerelay.shm.rundir import SOCKET_MODE

MAX_CONNECTIONS = 512
READ_DEADLINE_S = 3.0  # for a hello, and for the rest of a message once it has begun
TICK_S = 0.05
SWEEP_S = 0.005  # between two turns of removing void records
_UCRED = struct.Struct("iii")

log = logging.getLogger("voicerelay.control")


class _Connection:
    def __init__(self, channel: Channel, pidfd: int, now: float) -> None:
        self.channel = channel
        self.pidfd = pidfd
        self.deadline: float | None = now + READ_DEADLINE_S
        self.known = False


class ControlServer:
    """Serves the control socket. `sockets[role, index]`: public sockets, one a listen address."""

    def __init__(
        self, state: ControlState, path: Path, sockets: Mapping[tuple[str, int], Sequence[int]]
    ) -> None:
        self._state = state
        self._path = path
        self._sockets = sockets
        self._connections: dict[int, _Connection] = {}
        self._next_id = 0

    def start(self) -> None:
        """Bind, listen and tick on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._listener.bind(str(self._path))
        self._path.chmod(SOCKET_MODE)
        self._listener.listen(128)
        self._loop.add_reader(self._listener.fileno(), self._accept)
        self._tick()
        self._sweep()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        pid, uid, _ = _UCRED.unpack(
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        )
        if uid not in (0, os.geteuid()) or len(self._connections) >= MAX_CONNECTIONS:
            sock.close()
            return
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            sock.close()
            return
        self._next_id += 1
        peer_id = self._next_id
        channel = Channel(
            sock,
            lambda message, fds: self._received(peer_id, message, fds),
            lambda reason: self._closed(peer_id, reason),
        )
        self._connections[peer_id] = _Connection(channel, pidfd, time.monotonic())

    def _received(self, peer_id: int, message: Message, fds: list[int]) -> None:
        for fd in fds:
            os.close(fd)  # nobody has reason to send us any
        connection = self._connections[peer_id]
        connection.deadline = None
        if connection.known:
            self._carry_out(self._state.message(peer_id, message, time.monotonic_ns() // 1_000_000))
        elif isinstance(message, protocol.Hello):
            connection.known = True
            self._carry_out(self._state.hello(peer_id, message))
        else:
            connection.channel.close("no hello")

    def _closed(self, peer_id: int, reason: str) -> None:
        connection = self._connections.pop(peer_id)
        os.close(connection.pidfd)
        log.debug("peer %d: %s", peer_id, reason)
        self._carry_out(self._state.gone(peer_id))

    def _tick(self) -> None:
        now = time.monotonic()
        self._state.block.beat()
        self._carry_out(self._state.tick(now))
        for connection in list(self._connections.values()):
            if connection.deadline is None:
                if connection.channel.unfinished:
                    connection.deadline = now + READ_DEADLINE_S
            elif now > connection.deadline:
                connection.channel.close("read deadline")
        self._loop.call_later(TICK_S, self._tick)

    def _sweep(self) -> None:
        """A little at a time, so that hearts are looked at and requests answered meanwhile."""
        self._loop.call_later(SWEEP_S if self._state.sweep() else TICK_S, self._sweep)

    def _carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            connection = self._connections.get(action.peer)
            if connection is None:
                continue
            match action:
                case Send(_, message, sockets_of):
                    fds = () if sockets_of is None else self._sockets.get(sockets_of, ())
                    connection.channel.send(message, fds)
                case Close(_, reason):
                    log.warning("connection refused: %s", reason)
                    connection.channel.close(reason)
                case Kill(_, reason):
                    log.warning("%s; ended so that it is replaced", reason)
                    signal.pidfd_send_signal(connection.pidfd, signal.SIGKILL)
