"""The kinds of sockets that could carry frames, each with a receiving process, for bench/transport.py."""

import asyncio
import contextlib
import mmap
import os
import signal
import socket
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvloop

from voicerelay.relay.links import SEND_BUFFER_BYTES
from voicerelay.shm.frame import MAX_FRAME_BYTES
from voicerelay.shm.rundir import SOCKET_MODE
from voicerelay.transceiver.mux import MAX_FRAMES_DRAIN

FRAMES, BYTES = range(2)  # words that the receiver writes and the sender reads
PATIENCE_S = 5.0
QUIET_S = 0.3  # so long without another frame: it is lost
UNTUNED_BUFFER_BYTES = 212_992  # net.core.rmem_max and wmem_max of a Linux that nobody tuned


class Transport:
    """A kind of socket; the receiver listens at `folder`, or at a port."""

    key = ""
    title = ""
    family: int = socket.AF_UNIX
    kind = 0
    connected = True  # the receiver has a socket for each sender

    def __init__(self, folder: Path, buffer_bytes: int) -> None:
        self.buffer_bytes = buffer_bytes
        self.path = str(folder / f"{self.key}.sock")
        self.listener = socket.socket(self.family, self.kind | socket.SOCK_NONBLOCK)
        self.bind()
        if self.connected:
            self.listener.listen(8)

    def bind(self) -> None:
        self.listener.bind(self.path)
        Path(self.path).chmod(SOCKET_MODE)

    def address(self) -> Any:
        return self.path

    def connect(self) -> socket.socket:
        sock = socket.socket(self.family, self.kind | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.buffer_bytes)
        sock.connect(self.address())
        return sock

    def send(self, sock: socket.socket, frame: bytes) -> bool:
        """False when the frame must be dropped. Raises OSError when the receiver is gone."""
        try:
            sock.send(frame)
        except (BlockingIOError, InterruptedError):
            return False
        return True

    def receive(self, sock: socket.socket, words: memoryview) -> bool:
        """Take what waits, as the mux does; False at the end of file."""
        for _ in range(MAX_FRAMES_DRAIN):
            try:
                frame = sock.recv(MAX_FRAME_BYTES + 1)
            except (BlockingIOError, InterruptedError):
                return True
            if not frame:
                return False
            words[FRAMES] += 1
            words[BYTES] += len(frame)
        return True


class SeqPacket(Transport):
    key, title, kind = "seqpacket", "Unix SOCK_SEQPACKET", socket.SOCK_SEQPACKET


class Datagram(Transport):
    key, title, kind = "dgram", "Unix SOCK_DGRAM", socket.SOCK_DGRAM
    connected = False


class Udp(Transport):
    key, title, kind = "udp", "loopback UDP", socket.SOCK_DGRAM
    family: int = socket.AF_INET
    connected = False

    def bind(self) -> None:
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.buffer_bytes)
        self.listener.bind(("127.0.0.1", 0))

    def address(self) -> Any:
        return self.listener.getsockname()


class Stream(Transport):
    """Frames have no borders: a length before each; the rest of a half-sent one must go first."""

    key, title, kind = "stream", "Unix SOCK_STREAM, length first", socket.SOCK_STREAM
    _LENGTH = struct.Struct("<I")

    def __init__(self, folder: Path, buffer_bytes: int) -> None:
        super().__init__(folder, buffer_bytes)
        self._rest = b""
        self._received = bytearray()

    def connect(self) -> socket.socket:
        self._rest = b""
        return super().connect()

    def send(self, sock: socket.socket, frame: bytes) -> bool:
        try:
            if self._rest:
                self._rest = self._rest[sock.send(self._rest) :]
                if self._rest:
                    return False
            data = self._LENGTH.pack(len(frame)) + frame
            self._rest = data[sock.send(data) :]
        except (BlockingIOError, InterruptedError):
            return False
        return True

    def receive(self, sock: socket.socket, words: memoryview) -> bool:
        try:
            data = sock.recv(MAX_FRAME_BYTES + 1)
        except (BlockingIOError, InterruptedError):
            return True
        self._received += data
        at = 0
        while len(self._received) - at >= self._LENGTH.size:
            (length,) = self._LENGTH.unpack_from(self._received, at)
            end = at + self._LENGTH.size + length
            if len(self._received) < end:
                break
            frame = bytes(self._received[at + self._LENGTH.size : end])
            words[FRAMES] += 1
            words[BYTES] += len(frame)
            at = end
        del self._received[:at]
        return bool(data)


TRANSPORTS: list[type[Transport]] = [SeqPacket, Udp, Datagram, Stream]


class Receiver:
    """The receiving process of one transport, and its clock."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.words = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
        self.pid = os.fork()
        if self.pid == 0:
            with contextlib.suppress(KeyboardInterrupt):
                uvloop.run(self._serve())
            os._exit(0)
        transport_listener = transport.listener
        self._clock = (~self.pid << 3) | 2  # clock_getcpuclockid(3)
        if transport.connected:
            transport_listener.close()

    async def _serve(self) -> None:
        loop, listener = asyncio.get_running_loop(), self.transport.listener
        receive, words = self.transport.receive, self.words
        links: list[socket.socket] = []

        def readable(link: socket.socket) -> None:
            if not receive(link, words):
                loop.remove_reader(link.fileno())
                link.close()

        def accept() -> None:
            link, _ = listener.accept()
            link.setblocking(False)
            links.append(link)
            loop.add_reader(link.fileno(), readable, link)

        if self.transport.connected:
            loop.add_reader(listener.fileno(), accept)
        else:
            loop.add_reader(listener.fileno(), readable, listener)
        await asyncio.Event().wait()

    def cpu_s(self) -> float:
        return time.clock_gettime(self._clock)

    def frames(self) -> int:
        return int(self.words[FRAMES])

    def settle(self, expected: int) -> int:
        """Frames received, once there are so many or no more come."""
        seen, moved = self.frames(), time.monotonic()
        while seen < expected and time.monotonic() - moved < QUIET_S:
            time.sleep(0.005)
            if seen != self.frames():
                seen, moved = self.frames(), time.monotonic()
        return self.frames()

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def end(self) -> None:
        self.signal(signal.SIGKILL)
        os.waitpid(self.pid, 0)


@contextlib.contextmanager
def receiving(
    kind: type[Transport], buffer_bytes: int = SEND_BUFFER_BYTES
) -> Iterator[tuple[Transport, Receiver, socket.socket]]:
    """A transport whose receiver has had one frame from the sender's socket."""
    with tempfile.TemporaryDirectory(prefix="transport-bench-") as folder:
        Path(folder).chmod(0o711)  # only the socket's own mode decides
        transport = kind(Path(folder), buffer_bytes)
        receiver = Receiver(transport)
        sock = transport.connect()
        transport.send(sock, b"first")
        deadline = time.monotonic() + PATIENCE_S
        while not receiver.frames() and time.monotonic() < deadline:
            time.sleep(0.001)
        try:
            yield transport, receiver, sock
        finally:
            sock.close()
            transport.listener.close()
            receiver.end()
