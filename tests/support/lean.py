"""A caller for load: WHIP, one STUN check, DTLS and SRTP by hand, so that the server is what is measured.

It shares one certificate and one SSL context over all calls, and knows no codec, no RTCP, no SCTP.
"""

import asyncio
import contextlib
import secrets
import socket
import time
from dataclasses import dataclass

import aiohttp
from aiortc.rtcdtlstransport import SRTP_AES128_CM_SHA1_80, RTCCertificate
from aiortc.rtp import is_rtcp
from OpenSSL import SSL
from pylibsrtp import Policy, Session

from voicerelay.shm import stun

CALL_TIMEOUT_S = 10.0
MAX_DATAGRAM_BYTES = 2048
CONTROLLING = (stun.ICE_CONTROLLING, bytes(8))
PRIORITY = (stun.PRIORITY, (1 << 30).to_bytes(4, "big"))
RTP_HEADER = b"\x80\x6f"  # version 2, payload type 111
OPUS_SILENCE = b"\xf8\xff\xfe"

# What Chromium offers for a microphone, except its candidates.
AUDIO = """v=0
o=- 4611731400430051336 2 IN IP4 127.0.0.1
s=-
t=0 0
a=group:BUNDLE {mids}
a=extmap-allow-mixed
a=msid-semantic: WMS 4f1bb6d0-8f0c-4a3e-b0a5-6b3b8a5f2f10
m=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0 8 13 110 126
c=IN IP4 0.0.0.0
a=rtcp:9 IN IP4 0.0.0.0
a=ice-ufrag:{ufrag}
a=ice-pwd:i0xTq3rFyvV0ZEaV1V9YJ1cP
a=ice-options:trickle
a=fingerprint:sha-256 {fingerprint}
a=setup:actpass
a=mid:0
a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level
a=extmap:2 http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time
a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01
a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid
a=sendrecv
a=msid:4f1bb6d0-8f0c-4a3e-b0a5-6b3b8a5f2f10 5d0f1e6e-3f04-4f6e-9b8e-0d6b1a9c7e21
a=rtcp-mux
a=rtcp-rsize
a=rtpmap:111 opus/48000/2
a=rtcp-fb:111 transport-cc
a=fmtp:111 minptime=10;useinbandfec=1
a=rtpmap:63 red/48000/2
a=fmtp:63 111/111
a=rtpmap:9 G722/8000
a=rtpmap:0 PCMU/8000
a=rtpmap:8 PCMA/8000
a=rtpmap:13 CN/8000
a=rtpmap:110 telephone-event/48000
a=rtpmap:126 telephone-event/8000
a=ssrc:2463872159 cname:Yt8oE0gTq7r0sPzL
a=ssrc:2463872159 msid:4f1bb6d0-8f0c-4a3e-b0a5-6b3b8a5f2f10 5d0f1e6e-3f04-4f6e-9b8e-0d6b1a9c7e21
"""
DATA = """m=application 9 UDP/DTLS/SCTP webrtc-datachannel
c=IN IP4 0.0.0.0
a=ice-ufrag:{ufrag}
a=ice-pwd:i0xTq3rFyvV0ZEaV1V9YJ1cP
a=ice-options:trickle
a=fingerprint:sha-256 {fingerprint}
a=setup:actpass
a=mid:1
a=sctp-port:5000
a=max-message-size:262144
"""


class LeanCallFailed(Exception):
    """The call did not come about; the text says at which step. `status`: of HTTP, if it was there."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class Caller:
    """What all calls of a process share: certificate, SSL context, offer."""

    def __init__(self, url: str, data_channel: bool = False) -> None:
        self.url = url
        certificate = RTCCertificate.generateCertificate()
        fingerprint = certificate.getFingerprints()[0].value
        # Plain AES-CM, which every peer has, and libsrtp without GCM too.
        self.context = certificate._create_ssl_context([SRTP_AES128_CM_SHA1_80])
        text = AUDIO + (DATA if data_channel else "")
        self._offer = text.replace("\n", "\r\n").replace("{fingerprint}", fingerprint)
        self._offer = self._offer.replace("{mids}", "0 1" if data_channel else "0")

    def offer(self, ufrag: str) -> str:
        return self._offer.replace("{ufrag}", ufrag)


@dataclass
class Times:
    """time.perf_counter() at each step."""

    posted: float = 0.0
    answered: float = 0.0
    checked: float = 0.0
    connected: float = 0.0  # our side of DTLS is done: media may flow
    heard: float = 0.0  # the first packet of ours has come back


class LeanCall:
    """One call of a `Caller`."""

    def __init__(self, caller: Caller) -> None:
        self.times = Times()
        self.resource = ""
        self._caller = caller
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._ufrag = secrets.token_hex(4)
        self._number = 0
        self._rx: Session | None = None
        self._tx: Session | None = None

    async def connect(self, http: aiohttp.ClientSession) -> None:
        """Offer, check, handshake, one packet there and back. Raises LeanCallFailed."""
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                answer = await self._post(http)
                self._socket.connect(_candidate(answer))
                await self._check(_value(answer, "ice-ufrag"), _value(answer, "ice-pwd"))
                await self._handshake()
                await self._hear()
        except TimeoutError:
            raise LeanCallFailed(f"no answer in time: {self.times}") from None

    async def hang_up(self, http: aiohttp.ClientSession) -> None:
        """DELETE, and wait for its answer. Raises LeanCallFailed."""
        async with http.delete(self._caller.url + self.resource) as response:
            if response.status != 200:
                raise LeanCallFailed(f"DELETE: {response.status}")
        self.close()

    def close(self) -> None:
        self._socket.close()

    def say(self) -> None:
        """Send one packet."""
        assert self._tx is not None
        number = self._number = self._number + 1
        head = RTP_HEADER + number.to_bytes(2, "big") + (number * 960).to_bytes(4, "big")
        self._send(self._tx.protect(head + b"lean" + OPUS_SILENCE))

    def throw(self, data: bytes) -> None:
        """Send any bytes from this call's address; what does not fit into the socket is lost."""
        with contextlib.suppress(BlockingIOError):
            self._socket.send(data)

    async def _post(self, http: aiohttp.ClientSession) -> str:
        self.times.posted = time.perf_counter()
        async with http.post(
            self._caller.url + "/whip",
            data=self._caller.offer(self._ufrag),
            headers={"Content-Type": "application/sdp"},
        ) as response:
            answer = await response.text()
            if response.status != 201:
                raise LeanCallFailed(f"POST: {response.status} {answer}", response.status)
            self.resource = response.headers["Location"]
        self.times.answered = time.perf_counter()
        return answer

    async def _check(self, ufrag: str, password: str) -> None:
        """One authenticated check that nominates (RFC 8445 §7.2.2)."""
        username = f"{ufrag}:{self._ufrag}".encode()
        attributes = [(stun.USERNAME, username), PRIORITY, CONTROLLING, (stun.USE_CANDIDATE, b"")]
        self._send(
            stun.build(stun.BINDING_REQUEST, secrets.token_bytes(12), attributes, password.encode())
        )
        while stun.parse(await self._receive(0, 3)).kind != stun.BINDING_SUCCESS:
            pass
        self.times.checked = time.perf_counter()

    async def _handshake(self) -> None:
        """We offered actpass, so the server, active, begins (RFC 8842 §5.3)."""
        ssl = SSL.Connection(self._caller.context)
        ssl.set_accept_state()
        done = False
        while not done:
            ssl.bio_write(await self._receive(20, 63))
            try:
                ssl.do_handshake()
                done = True
            except SSL.WantReadError:
                pass
            with contextlib.suppress(SSL.WantReadError):
                self._send(ssl.bio_read(MAX_DATAGRAM_BYTES))
        self._rx, self._tx = srtp_sessions(ssl)
        self.times.connected = time.perf_counter()

    async def _hear(self) -> None:
        assert self._rx is not None
        self.say()
        data = await self._receive(128, 191)
        while is_rtcp(data):
            data = await self._receive(128, 191)
        self._rx.unprotect(data)
        self.times.heard = time.perf_counter()

    def _send(self, data: bytes) -> None:
        self._socket.send(data)

    async def _receive(self, first: int, last: int) -> bytes:
        """The next datagram whose first byte is in this range (RFC 7983 §7)."""
        while True:
            data = await self._loop.sock_recv(self._socket, MAX_DATAGRAM_BYTES)
            if first <= data[0] <= last:
                return data


def srtp_sessions(ssl: SSL.Connection) -> tuple[Session, Session]:
    """For receiving and for sending, on the side that was the DTLS server (RFC 5764 §4.2)."""
    profile = SRTP_AES128_CM_SHA1_80
    size = 2 * (profile.key_length + profile.salt_length)
    keys = ssl.export_keying_material(b"EXTRACTOR-dtls_srtp", size)
    return tuple(  # type: ignore[return-value]
        Session(
            Policy(
                key=profile.get_key_and_salt(keys, side),
                ssrc_type=direction,
                srtp_profile=profile.libsrtp_profile,
            )
        )
        for side, direction in ((0, Policy.SSRC_ANY_INBOUND), (1, Policy.SSRC_ANY_OUTBOUND))
    )


def _value(sdp: str, name: str) -> str:
    return sdp.partition(f"\r\na={name}:")[2].partition("\r\n")[0]


def _candidate(sdp: str) -> tuple[str, int]:
    """Host and port of the only candidate."""
    fields = _value(sdp, "candidate").split()
    return fields[4], int(fields[5])
