"""A light call that talks: lean.py's, and it answers a full ICE agent's checks, reports loss, keeps what comes."""

import asyncio
import contextlib
import ipaddress
import secrets
import socket
import struct
from collections.abc import Callable

import aiohttp

from tests.support.lean import MAX_DATAGRAM_BYTES, Caller, LeanCall, LeanCallFailed
from tests.support.proxy import Address
from voicerelay.shm import stun
from voicerelay.transceiver.voice import rtp

PASSWORD = b"i0xTq3rFyvV0ZEaV1V9YJ1cP"  # of lean.py's offer
TICKS = 960
REPORTED_LOSS = 12 / 256  # switches the server's FEC on, for as much loss as floor.py prepares for
SO_TIMESTAMPNS = 35
CONTROL_BYTES = 64
RECEIVE_BUFFER_BYTES = 1 << 20
BUSY_S = 0.5  # before a server that is behind is asked again
CHECK_AGAIN_S = 0.5
FIRST_SEQUENCE = 1000
SSRC = int.from_bytes(b"lean", "big")


class TalkingCall(LeanCall):
    """A call that also answers the server's checks, which a full ICE agent sends.

    between: where it sends to instead of to the server.
    """

    def __init__(
        self, caller: Caller, between: Callable[[Address], Address] = lambda server: server
    ) -> None:
        super().__init__(caller)
        self._between = between
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.ssrc = 0
        self.received: list[tuple[float, bytes]] = []  # arrival, SRTP
        self.sent = self.sent_in_window = 0
        self._credentials = ("", "")

    async def connect(self, http: aiohttp.ClientSession) -> None:
        """Offer, check, handshake. Raises LeanCallFailed or TimeoutError."""
        async with asyncio.timeout(30):
            while True:
                try:
                    answer = await self._post(http)
                    break
                except LeanCallFailed as exc:
                    if "503" not in str(exc):
                        raise
                    await asyncio.sleep(BUSY_S)
            self.ssrc = int(_after(answer, "\r\na=ssrc:").split()[0])
            self._credentials = _after(answer, "\r\na=ice-ufrag:"), _after(answer, "\r\na=ice-pwd:")
            fields = _after(answer, "\r\na=candidate:").split()
            self._socket.connect(self._between((fields[4], int(fields[5]))))
            await self._checked()
            await self._handshake()

    async def _checked(self) -> None:
        """As any client does, ask again when no answer comes (RFC 8489 §6.2.1)."""
        while True:
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(self._check(*self._credentials), CHECK_AGAIN_S)

    def fileno(self) -> int:
        return self._socket.fileno()

    def send_packet(self, number: int, payload: bytes) -> None:
        assert self._tx is not None
        packet = rtp.RtpPacket(
            number == 0,
            111,
            (FIRST_SEQUENCE + number) & 0xFFFF,
            (number * TICKS) & 0xFFFFFFFF,
            SSRC,
            payload,
        )
        self._socket.send(self._tx.protect(rtp.build_rtp(packet)))
        self.sent += 1

    def send_report(self) -> None:
        assert self._tx is not None
        block = rtp.ReportBlock(self.ssrc, round(REPORTED_LOSS * 256), 0, 0, 0, 0, 0)
        self._socket.send(self._tx.protect_rtcp(rtp.build_report(SSRC, "lean", None, [block])))

    def send_check(self) -> None:
        ufrag, password = self._credentials
        attributes = [
            (stun.USERNAME, f"{ufrag}:{self._ufrag}".encode()),
            (stun.PRIORITY, (1 << 30).to_bytes(4, "big")),
            (stun.ICE_CONTROLLING, bytes(8)),
            (stun.USE_CANDIDATE, b""),
        ]
        self._socket.send(
            stun.build(stun.BINDING_REQUEST, secrets.token_bytes(12), attributes, password.encode())
        )

    def take_all(self) -> None:
        """Keep what has come, with the kernel's time of arrival."""
        while True:
            try:
                data, control, _, _ = self._socket.recvmsg(MAX_DATAGRAM_BYTES, CONTROL_BYTES)
            except BlockingIOError:
                return
            if data[0] < 4:
                self._answer(data)
            elif data[0] >= 128 and not rtp.is_rtcp(data):
                seconds, nanoseconds = struct.unpack("qq", control[0][2])
                self.received.append((seconds + nanoseconds * 1e-9, data))

    async def _receive(self, first: int, last: int) -> bytes:
        while True:
            data = await self._loop.sock_recv(self._socket, MAX_DATAGRAM_BYTES)
            if data[:2] == b"\x00\x01":
                self._answer(data)
            if first <= data[0] <= last and data[:2] != b"\x00\x01":
                return data

    def _answer(self, data: bytes) -> None:
        """Binding success (RFC 8445 §7.3)."""
        if data[:2] != b"\x00\x01":
            return
        host, port = self._socket.getpeername()
        value = stun.xor_address(port, ipaddress.ip_address(host).packed, data[8:20])
        attributes = [(stun.XOR_MAPPED_ADDRESS, value)]
        self._socket.send(stun.build(stun.BINDING_SUCCESS, data[8:20], attributes, PASSWORD))

    async def _post(self, http: aiohttp.ClientSession) -> str:
        port = self._socket.getsockname()[1]
        candidate = f"a=candidate:1 1 udp 2113937151 127.0.0.1 {port} typ host\r\n"
        plain = self._caller._offer
        self._caller._offer = plain.replace(
            "a=ice-options:trickle\r\n", candidate + "a=end-of-candidates\r\n"
        )
        try:
            return await super()._post(http)
        finally:
            self._caller._offer = plain


def _after(text: str, mark: str) -> str:
    return text.partition(mark)[2].partition("\r\n")[0]
