"""A light WebRTC caller: stock aiortc and aioice for ICE, DTLS and SRTP, but no codec and no thread."""

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.rtp import RtpPacket

PACKET_S = 0.02
CONNECT_TIMEOUT_S = 15.0


class CallRefused(Exception):
    """The server's answer to the offer was not 201."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self.body = body


@dataclass
class Received:
    """One packet that came back. Times are time.monotonic() seconds."""

    at: float
    sequence: int
    timestamp: int
    payload: bytes


@dataclass
class Call:
    """A call over WHIP that sends numbered payloads every 20 ms and keeps what comes back.

    The echo returns payloads as they are, so the number in each tells what was lost and when.
    """

    url: str
    pc: RTCPeerConnection = field(default_factory=lambda: RTCPeerConnection(RTCConfiguration([])))
    received: list[Received] = field(default_factory=list)
    sent: int = 0
    query: str = ""  # of the URL that is called
    headers: dict[str, str] = field(default_factory=dict)
    timeout_s: float = CONNECT_TIMEOUT_S
    resource: str = ""
    etag: str = ""
    answer: str = ""
    closed_at: float | None = None
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def connect(
        self,
        http: aiohttp.ClientSession,
        mangle: Callable[[str], str] = str,
        mangle_answer: Callable[[str], str] = str,
    ) -> None:
        """Offer, answer, and wait until connected. `mangle` and its like may change the SDP."""
        transceiver = self.pc.addTransceiver("audio", direction="sendrecv")
        connected = asyncio.Event()

        @self.pc.on("connectionstatechange")
        def changed() -> None:
            if self.pc.connectionState == "connected":
                connected.set()
            elif self.pc.connectionState in ("failed", "closed") and self.closed_at is None:
                self._note_closed()

        await self.pc.setLocalDescription(await self.pc.createOffer())
        self.answer = await self.offer(http, mangle(self.pc.localDescription.sdp))
        receiver: Any = transceiver.receiver
        receiver._handle_rtp_packet = self._on_packet
        sender: Any = transceiver.sender
        sender.send = self._nothing
        receiver.receive = self._register(receiver)
        answer = RTCSessionDescription(mangle_answer(self.answer), "answer")
        await self.pc.setRemoteDescription(answer)
        await asyncio.wait_for(connected.wait(), self.timeout_s)
        self._dtls: Any = receiver.transport
        self._ssrc = sender._ssrc
        self._payload_type: int = transceiver._codecs[0].payloadType or 0

    async def offer(self, http: aiohttp.ClientSession, sdp: str) -> str:
        """The answer, by WHIP. Raises CallRefused."""
        async with http.post(
            f"{self.url}/whip{self.query}",
            data=sdp,
            headers={"Content-Type": "application/sdp", **self.headers},
        ) as response:
            if response.status != 201:
                raise CallRefused(response.status, await response.json())
            self.resource = response.headers["Location"]
            self.etag = response.headers["ETag"]
            return await response.text()

    @property
    def connected(self) -> bool:
        return self.pc.connectionState == "connected" and self.closed_at is None

    async def send(self, payload: bytes | None = None) -> None:
        """One packet; by default a payload that holds its number."""
        number = self.sent
        self.sent += 1
        packet = RtpPacket(
            payload_type=self._payload_type,
            sequence_number=(1000 + number) & 0xFFFF,
            timestamp=(number * 960) & 0xFFFFFFFF,
            ssrc=self._ssrc,
            payload=b"\x78" + number.to_bytes(8, "big") + bytes(71) if payload is None else payload,
        )
        try:
            await self._dtls._send_rtp(packet.serialize())
        except ConnectionError:
            self._note_closed()

    async def talk(self, seconds: float) -> None:
        """Send a packet every 20 ms on an absolute schedule."""
        await self.say([None] * int(seconds / PACKET_S))

    async def say(self, payloads: Sequence[bytes | None]) -> None:
        """Send these every 20 ms on an absolute schedule."""
        start = time.monotonic()
        for index, payload in enumerate(payloads):
            wait = start + index * PACKET_S - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            await self.send(payload)

    def numbers(self) -> list[int]:
        """The numbers that came back, in order of arrival."""
        return [int.from_bytes(packet.payload[1:9], "big") for packet in self.received]

    def longest_gap_s(self, since: float = 0.0, until: float = float("inf")) -> float:
        """The longest time without a packet from the server in a span of time."""
        times = [packet.at for packet in self.received if since <= packet.at <= until]
        return max((b - a for a, b in itertools.pairwise(times)), default=float("inf"))

    async def hang_up(self, http: aiohttp.ClientSession) -> int:
        async with http.delete(f"{self.url}{self.resource}") as response:
            return response.status

    async def close(self) -> None:
        await self.pc.close()

    def _note_closed(self) -> None:
        if self.closed_at is None:
            self.closed_at = time.monotonic()
            self.closed.set()

    async def _on_packet(self, packet: RtpPacket, arrival_time_ms: int) -> None:
        self.received.append(
            Received(time.monotonic(), packet.sequence_number, packet.timestamp, packet.payload)
        )

    @staticmethod
    async def _nothing(*_: Any) -> None:
        """In place of the sender's task."""

    @staticmethod
    def _register(receiver: Any) -> Any:
        """Register with the transport's router only: no decoder thread."""

        async def receive(parameters: Any) -> None:
            receiver.transport._register_rtp_receiver(receiver, parameters)

        return receive
