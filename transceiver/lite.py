"""What aiortc takes for an aioice.Connection: public interface only, our own ICE agent behind it."""

import asyncio
from collections import deque
from typing import Protocol

from aioice import Candidate, ConnectionClosed

from voicerelay.transceiver.channels import DataChannel

MAX_PENDING_DATAGRAMS = 64  # DTLS datagrams waiting for aiortc's task
HOST_PRIORITY = (126 << 24) + (65535 << 8) + 255  # RFC 8445 §5.1.2.1: host, component 1


class Carrier(Protocol):
    """Carries the datagrams of one connection and says by which credentials it is reached."""

    candidates: list[tuple[str, int]]

    @property
    def ufrag(self) -> str: ...

    @property
    def password(self) -> str: ...

    def send_datagram(self, data: bytes) -> None: ...


class Link(Carrier, Protocol):
    """What a session gives to its peer connection."""

    def media_started(self, payload_type: int, ssrc: int) -> None: ...

    def peer_state(self, state: str) -> None: ...

    def channel_opened(self, channel: DataChannel) -> bool: ...

    def message_received(self, label: str, data: str | bytes) -> None: ...


class LiteConnection:
    """Stands where aiortc expects an aioice.Connection; the session's IceAgent does the ICE."""

    max_pending = MAX_PENDING_DATAGRAMS

    def __init__(self, link: Carrier) -> None:
        self._link = link
        self.ice_controlling = False
        self.remote_is_lite = False
        self.remote_username: str | None = None
        self.remote_password: str | None = None
        self.local_username = link.ufrag
        self.local_password = link.password
        self.local_candidates: list[Candidate] = []
        self.remote_candidates: list[Candidate] = []
        self._waiting: deque[bytes] = deque()
        self._arrived = asyncio.Event()
        self._ready = asyncio.Event()
        self._ended = asyncio.Event()

    async def gather_candidates(self) -> None:
        """One host candidate for each listen address, known without asking anybody."""
        self.local_candidates = [
            Candidate(str(number), 1, "udp", HOST_PRIORITY - (number - 1) * 256, host, port, "host")
            for number, (host, port) in enumerate(self._link.candidates, 1)
        ]

    async def add_remote_candidate(self, candidate: Candidate | None) -> None:
        """Accepted and ignored: a lite agent never contacts a candidate (no SSRF, no mDNS)."""

    async def connect(self) -> None:
        """Wait for the first authenticated check."""
        await self._ready.wait()
        if self._ended.is_set():
            raise ConnectionError("ICE: closed")

    async def close(self) -> None:
        self.end()

    async def get_event(self) -> ConnectionClosed:
        await self._ended.wait()
        return ConnectionClosed()

    async def recv(self) -> bytes:
        while not self._waiting:
            if self._ended.is_set():
                raise ConnectionError("ICE: closed")
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.popleft()

    async def send(self, data: bytes) -> None:
        if self._ended.is_set():
            raise ConnectionError("ICE: closed")
        self._link.send_datagram(data)

    def ready(self) -> None:
        """A path is valid: DTLS may begin."""
        self._ready.set()

    def deliver(self, data: bytes) -> bool:
        """A DTLS datagram of the peer; False when too many wait."""
        if len(self._waiting) >= self.max_pending:
            return False
        self._waiting.append(data)
        self._arrived.set()
        return True

    def end(self) -> None:
        """Wake everybody who waits."""
        self._ended.set()
        self._ready.set()
        self._arrived.set()
