"""Datagrams in and out of a transceiver: frames from the relays, replies by the public sockets."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from voicerelay.shm.counters import Block, TransceiverCounter
from voicerelay.shm.frame import MAX_FRAME_BYTES, FrameError, split_frame
from voicerelay.shm.overflow import overflows
from voicerelay.shm.path import unpack_path
from voicerelay.shm.rundir import SOCKET_MODE
from voicerelay.shm.stun import BINDING_REQUEST, server_ufrag
from voicerelay.transceiver.intake import Intake
from voicerelay.transceiver.voice.engine import FULL, Engine
from voicerelay.transceiver.voice.rtp import FIRST_RTP_BYTE, RtpPacket

MAX_FRAMES_DRAIN = 16  # a wake-up and relay
MAX_CACHED_ADDRESSES = 16_384
MAX_RELAY_LINKS = 256
DSCP_EF_TOS = 46 << 2  # RFC 8837 §5: interactive voice
# Of each packet; looking a member of an enumeration up costs as much as counting.
_RECEIVED = TransceiverCounter.PACKETS_RECEIVED.value
_DELIVERED = TransceiverCounter.PACKETS_DELIVERED.value
_SENT = TransceiverCounter.PACKETS_SENT.value
_SEND_FAILURES = TransceiverCounter.SEND_FAILURES.value
_DROPPED_SRTP = TransceiverCounter.DROPPED_SRTP.value
_FRAMES_RECEIVED = TransceiverCounter.FRAMES_RECEIVED.value

Ear = Callable[[RtpPacket, float], None]


class Endpoint(Protocol):
    """A session, as the mux sees it."""

    def stun_received(self, data: bytes, path: bytes, relay: int | None) -> None: ...

    def datagram_received(self, data: bytes, path: bytes, relay: int | None) -> None: ...

    def path_lost(self, path: bytes) -> None: ...


class Nobody:
    """The endpoint of a call that has ended."""

    def stun_received(self, data: bytes, path: bytes, relay: int | None) -> None: ...

    def datagram_received(self, data: bytes, path: bytes, relay: int | None) -> None: ...

    def path_lost(self, path: bytes) -> None: ...


class Mux:
    """Hands each datagram to its session: Binding requests by ufrag, the rest by path (law 1)."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, block: Block, engine: Engine | None = None
    ) -> None:
        self._loop = loop
        self._block = block
        self.engine = engine or Engine()
        self.by_ufrag: dict[bytes, Endpoint] = {}
        self.by_path: dict[bytes, Endpoint] = {}
        self._public: list[socket.socket] = []
        self._steered = False
        self._intakes: list[Intake] = []
        self._addresses: dict[bytes, tuple[str, int]] = {}
        self._media: list[tuple[Ear, RtpPacket, float]] = []
        self._listener: socket.socket | None = None
        self._links: dict[int, socket.socket] = {}

    def listen(self, path: Path) -> None:
        """Accept frames at a Unix socket."""
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self._listener.bind(str(path))
        path.chmod(SOCKET_MODE)
        self._listener.listen(MAX_RELAY_LINKS)
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def use_public(self, sockets: list[socket.socket], steered: bool) -> None:
        """The public sockets to send by, one a listen address.

        `steered`: they are our own and the kernel puts our sessions' packets into them.
        """
        self._close_public()
        self._public, self._steered = sockets, steered
        families = [(sock.fileno(), sock.family == socket.AF_INET6) for sock in sockets]
        self.engine.use_public(families)
        for local, sock in enumerate(sockets):
            sock.setblocking(False)
            if steered:
                intake = Intake(self._loop, local, sock, self)
                self._intakes.append(intake)
            v6 = sock.family == socket.AF_INET6
            level, option = (
                (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
                if v6
                else (socket.IPPROTO_IP, socket.IP_TOS)
            )
            with contextlib.suppress(OSError):
                sock.setsockopt(level, option, DSCP_EF_TOS)

    def send(self, data: bytes, path: bytes) -> None:
        """Straight to the client; a full or failing socket counts as loss, as UDP has it."""
        address = self._addresses.get(path)
        if address is None:
            if len(self._addresses) >= MAX_CACHED_ADDRESSES:
                self._addresses.clear()
            _, host, port = unpack_path(path)
            address = self._addresses[path] = (host, port)
        try:
            self._public[path[0]].sendto(data, address)
        except (OSError, IndexError):
            self._block.add(TransceiverCounter.SEND_FAILURES)
        else:
            self._block.words[_SENT] += 1

    def drop(self, reason: TransceiverCounter) -> None:
        """Count a packet that goes no further."""
        self._block.add(reason)

    def count(self, reason: TransceiverCounter | None) -> None:
        """A packet that was dropped for this reason, or for none."""
        if reason is None:
            self._block.words[_DELIVERED] += 1
        else:
            self._block.add(reason)

    def note(self, what: TransceiverCounter, by: int) -> None:
        """Count what is no packet."""
        self._block.add(what, by)

    def delivered(self) -> None:
        """Count a packet that reached its session's protocols."""
        self._block.words[_DELIVERED] += 1

    def note_overflows(self) -> None:
        """Count what the kernel steered here and the sockets had no room for."""
        lost = sum(map(overflows, self._public)) if self._steered else 0
        self._block.set(TransceiverCounter.SOCKET_OVERFLOWS, lost)

    def close(self) -> None:
        for sock in (self._listener, *self._links.values()):
            if sock is not None:
                self._loop.remove_reader(sock.fileno())
                sock.close()
        self._links.clear()
        self._close_public()

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            link, _ = self._listener.accept()
        except OSError:
            return
        if len(self._links) >= MAX_RELAY_LINKS:
            link.close()
            return
        link.setblocking(False)
        self._links[link.fileno()] = link
        self._loop.add_reader(link.fileno(), self._readable, link)

    def _readable(self, link: socket.socket) -> None:
        for _ in range(MAX_FRAMES_DRAIN):
            try:
                frame = link.recv(MAX_FRAME_BYTES + 1)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                frame = b""
            if not frame:
                self._loop.remove_reader(link.fileno())
                del self._links[link.fileno()]
                link.close()
                return
            self._block.words[_FRAMES_RECEIVED] += 1
            try:
                for relay, path, data in split_frame(frame):
                    self.take(data, path, relay)
            except FrameError:
                self.drop(TransceiverCounter.DROPPED_MALFORMED_FRAME)
            self.hand_on()

    def _close_public(self) -> None:
        self.engine.use_public([])
        for intake in self._intakes:
            intake.close()
        for sock in self._public:
            sock.close()
        self._public, self._intakes = [], []

    def dispatch(self, data: bytes, path: bytes, relay: int | None) -> None:
        """One datagram by itself."""
        self.take(data, path, relay)
        self.hand_on()

    def put_off(self, ear: Ear, packet: RtpPacket, now: float) -> None:
        """Media that its session's `ear` will be given with `hand_on`."""
        self._media.append((ear, packet, now))

    def hand_on(self) -> None:
        """After the last of the datagrams that have come together: media goes to the codec.

        All of it at once: the codec is large, and whatever comes after it finds its caches cold.
        """
        if self._media:
            media, self._media = self._media, []
            for ear, packet, now in media:
                ear(packet, now)
        heard, refused = self.engine.hand_on()
        words = self._block.words
        words[_DELIVERED] += heard
        words[_DROPPED_SRTP] += refused

    def sort(self, headers: int, count: int, local: int) -> Sequence[int]:
        """Of `count` datagrams at an address, as recvmmsg describes them: which are left to `take`."""
        left = self.engine.sort(headers, count, local)
        self._block.words[_RECEIVED] += count - len(left)
        return left

    def count_sent(self, sent: int, failed: int) -> None:
        """Packets that the engine has sent, and that it could not send."""
        words = self._block.words
        words[_SENT] += sent
        words[_SEND_FAILURES] += failed

    def refuse(self) -> None:
        """An empty or oversized datagram, in the balance like any other."""
        self._block.words[_RECEIVED] += 1
        self.drop(TransceiverCounter.DROPPED_NOT_WEBRTC)

    def take(self, data: bytes, path: bytes, relay: int | None) -> None:
        """One of the datagrams that have come together. A session counts what it drops itself."""
        self._block.words[_RECEIVED] += 1
        if data[0] >= FIRST_RTP_BYTE:
            taken = self.engine.take(data, path)
            if taken == FULL:
                self.hand_on()
                taken = self.engine.take(data, path)
            if taken:
                return
        if data[0] < 4:
            ufrag = server_ufrag(data)
            if int.from_bytes(data[:2], "big") == BINDING_REQUEST:
                endpoint = self.by_ufrag.get(ufrag) if ufrag else None
                if endpoint is None:
                    self.drop(TransceiverCounter.DROPPED_UNKNOWN_UFRAG)
                    return
            else:
                endpoint = self.by_path.get(path)
                if endpoint is None:
                    self.drop(TransceiverCounter.DROPPED_UNKNOWN_PATH)
                    return
            endpoint.stun_received(data, path, relay)
            return
        endpoint = self.by_path.get(path)
        if endpoint is None:
            self.drop(TransceiverCounter.DROPPED_UNKNOWN_PATH)
        else:
            endpoint.datagram_received(data, path, relay)
