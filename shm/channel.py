"""One end of a control connection: messages and file descriptors over a non-blocking Unix socket."""

import asyncio
import os
import socket
from array import array
from collections import deque
from collections.abc import Callable, Sequence

from voicerelay.shm.protocol import CARRIES_FDS, Decoder, Message, ProtocolError, encode

MAX_PENDING_BYTES = 1 << 20  # unsent bytes for a peer that does not read
MAX_FDS = 64  # descriptors in one message
MAX_FD_MESSAGES = 4  # unfinished messages that carried descriptors; more is no protocol of ours
READ_BYTES = 65536
_FD = array("i")


class Channel:
    """Sends and receives messages on an event loop's readers and writers.

    `on_message(message, fds)` gets the descriptors that came with it and owns them.
    `on_closed(reason)` is called once, also for a protocol error.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_message: Callable[[Message, list[int]], None],
        on_closed: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = sock
        self._on_message = on_message
        self._on_closed = on_closed
        self._decoder = Decoder()
        self._received_bytes = 0
        self._received_fds: deque[tuple[int, list[int]]] = deque()  # with the end of their read
        self._unsent: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._unsent_bytes = 0
        self._closed = False
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._readable)

    @property
    def unfinished(self) -> bool:
        """Whether half a message has arrived."""
        return self._decoder.unfinished

    @property
    def closed(self) -> bool:
        return self._closed

    def send(self, message: Message, fds: Sequence[int] = ()) -> bool:
        """Send or queue; the descriptors are duplicated when queued. False when closed or full."""
        if self._closed:
            return False
        data = encode(message)
        if self._unsent:
            return self._queue(data, tuple(os.dup(fd) for fd in fds))
        sent = self._send_now(data, fds)
        if sent < len(data) and not self._closed:
            rest = () if sent else tuple(os.dup(fd) for fd in fds)
            return self._queue(data[sent:], rest)
        return not self._closed

    def close(self, reason: str = "closed here") -> None:
        """Close once; tells `on_closed`."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        for _, fds in self._unsent:
            _close_all(fds)
        for _, received in self._received_fds:
            _close_all(received)
        self._on_closed(reason)

    def _queue(self, data: bytes, fds: tuple[int, ...]) -> bool:
        self._unsent.append((data, fds))
        self._unsent_bytes += len(data)
        if self._unsent_bytes > MAX_PENDING_BYTES:
            self.close("peer does not read")
            return False
        self._loop.add_writer(self._socket.fileno(), self._writable)
        return True

    def _send_now(self, data: bytes, fds: Sequence[int]) -> int:
        try:
            if fds:
                return socket.send_fds(self._socket, [data], list(fds))
            return self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as exc:
            self.close(f"send: {exc.strerror}")
            return 0

    def _writable(self) -> None:
        while self._unsent and not self._closed:
            data, fds = self._unsent[0]
            sent = self._send_now(data, fds)
            if self._closed or not sent:
                return
            self._unsent_bytes -= sent
            _close_all(fds)
            if sent < len(data):
                self._unsent[0] = (data[sent:], ())
                return
            self._unsent.popleft()
        if not self._closed:
            self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        try:
            data, fds, flags = _receive(self._socket)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self.close(f"receive: {exc.strerror}")
            return
        self._received_bytes += len(data)
        if fds:
            # The kernel never reads past bytes that carry descriptors: they belong to the message
            # that holds the last byte of this read.
            self._received_fds.append((self._received_bytes, fds))
        if not data:
            self.close("end of file")
            return
        if flags & socket.MSG_CTRUNC or len(self._received_fds) > MAX_FD_MESSAGES:
            self.close("too many descriptors")
            return
        try:
            for message in self._decoder.feed(data):
                self._on_message(message, self._fds_for(message))
                if self._closed:
                    return
        except ProtocolError as exc:
            self.close(f"protocol: {exc}")

    def _fds_for(self, message: Message) -> list[int]:
        """The descriptors that came with a message; none for a message that may carry none."""
        given: list[int] = []
        while self._received_fds and self._received_fds[0][0] <= self._decoder.consumed:
            given += self._received_fds.popleft()[1]
        if given and not isinstance(message, CARRIES_FDS):
            _close_all(given)
            return []
        return given


def _receive(sock: socket.socket) -> tuple[bytes, list[int], int]:
    """Data, descriptors and flags. `socket.recv_fds` would let programs we start inherit them."""
    data, ancillary, flags, _ = sock.recvmsg(
        READ_BYTES, socket.CMSG_LEN(MAX_FDS * _FD.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    fds = array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % _FD.itemsize])
    return data, list(fds), flags


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
