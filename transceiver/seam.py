"""The only file that touches private names of aiortc and aioice: SDP, DTLS, SRTP, SCTP over our ICE.

aiortc builds a peer connection out of classes it finds in its own module. While `answer` runs (a context
variable says so) it finds ours there: a gatherer whose connection is our ICE-lite session, a DTLS transport
that never sends above 1200 bytes, and an RTP receiver and sender that leave the media to the voice path.
"""

import contextlib
import logging
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import aiortc.rtcpeerconnection as aiortc_pc
import pylibsrtp
from aiortc import (
    RTCBundlePolicy,
    RTCCertificate,
    RTCConfiguration,
    RTCDataChannel,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.exceptions import InvalidAccessError, InvalidStateError, OperationError
from aiortc.mediastreams import MediaStreamTrack
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcicetransport import RTCIceGatherer, RTCIceParameters
from aiortc.rtcrtpparameters import (
    RTCRtpCodecCapability,
    RTCRtpReceiveParameters,
    RTCRtpSendParameters,
)
from aiortc.rtcrtpreceiver import RTCRtpReceiver
from aiortc.rtcrtpsender import RTCRtpSender
from aiortc.utils import random32
from OpenSSL import SSL

from voicerelay.transceiver.channels import DataChannel
from voicerelay.transceiver.lite import Link, LiteConnection

MAX_DATAGRAM_SENT_BYTES = 1200  # fits any path of 1280 bytes, IPv6's least MTU
CERTIFICATE_LIFETIME_S = 24 * 3600.0
_CIPHERS = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    b"ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:"
    b"ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA:ECDHE-RSA-AES256-SHA"
)
_OPUS = RTCRtpCodecCapability(mimeType="audio/opus", clockRate=48000, channels=2)


class NotAcceptable(Exception):
    """The offer is well formed, but no call can be made of it."""


class SeamBroken(Exception):
    """aiortc does not behave as this file expects; another version is needed."""


@dataclass(frozen=True)
class _Build:
    link: Link


_build: ContextVar[_Build | None] = ContextVar("voicerelay_build", default=None)


class _Gatherer(RTCIceGatherer):
    def __init__(self, link: Link) -> None:
        super().__init__(iceServers=[])  # its own connection is never used: no socket, no task
        self._connection: Any = LiteConnection(link)

    def getLocalParameters(self) -> RTCIceParameters:
        parameters = super().getLocalParameters()
        parameters.iceLite = True
        return parameters


class _DtlsTransport(RTCDtlsTransport):
    async def _do_handshake(self) -> None:
        assert self._ssl is not None
        self._ssl.set_ciphertext_mtu(MAX_DATAGRAM_SENT_BYTES)
        await super()._do_handshake()

    async def _write_ssl(self) -> None:
        """Stock sends up to 1500 bytes of a flight as they lie, cutting records in two."""
        assert self._ssl is not None
        while True:
            try:
                data = self._ssl.bio_read(65536)
            except SSL.Error:
                return
            for datagram in cut_at_records(data):
                await self.transport._send(datagram)


class _PeerConnection(RTCPeerConnection):
    async def _RTCPeerConnection__connect(self) -> None:
        """Stock's task for ICE, DTLS and SCTP; a call that ends meanwhile is no error of ours."""
        _build.set(None)  # the agent's task comes from here, and may make connections of its own
        with contextlib.suppress(InvalidStateError, ConnectionError):
            await super()._RTCPeerConnection__connect()  # type: ignore[misc]


class _Certificate(RTCCertificate):
    """One certificate and one SSL context for all sessions of the process."""

    _shared: "_Certificate | None" = None
    _made_at = 0.0
    _context: SSL.Context | None = None

    @classmethod
    def shared(cls) -> "_Certificate":
        now = time.monotonic()
        if cls._shared is None or now - cls._made_at > CERTIFICATE_LIFETIME_S:
            cls._shared, cls._made_at = cls.generateCertificate(), now
        return cls._shared

    def _create_ssl_context(self, srtp_profiles: list[Any]) -> SSL.Context:
        if self._context is None:
            self._context = super()._create_ssl_context(srtp_profiles)
            # RSA suites too: as DTLS client we must speak with peers whose certificate is RSA.
            self._context.set_cipher_list(_CIPHERS)
            self._context.set_options(SSL.OP_NO_QUERY_MTU)
        return self._context


class _Media:
    """What an RTP receiver and sender of aiortc have in common with ours."""

    def __init__(self, kind: str, transport: RTCDtlsTransport, link: Link) -> None:
        self.kind = kind
        self.transport = transport
        self.track: MediaStreamTrack | None = None
        self._link = link
        self._enabled = True

    def setTransport(self, transport: RTCDtlsTransport) -> None:
        self.transport = transport

    async def stop(self) -> None:
        """Nothing runs here: no task, no thread."""


class _Receiver(_Media):
    """Takes the place of RTCRtpReceiver; packets never come here, they go to the voice path."""

    _track: MediaStreamTrack | None = None

    async def receive(self, parameters: RTCRtpReceiveParameters) -> None:
        pass

    def _set_rtcp_ssrc(self, ssrc: int) -> None:
        self.rtcp_ssrc = ssrc


class _Sender(_Media):
    """Takes the place of RTCRtpSender; holds what the answer's SDP says of our stream."""

    def __init__(self, kind: str, transport: RTCDtlsTransport, link: Link) -> None:
        super().__init__(kind, transport, link)
        self._ssrc = random32()
        self._rtx_ssrc = random32()
        self._stream_id = self._track_id = "voicerelay"

    def replaceTrack(self, track: MediaStreamTrack | None) -> None:
        self.track = track

    async def send(self, parameters: RTCRtpSendParameters) -> None:
        pass


def _make_gatherer(*args: Any, **kwargs: Any) -> RTCIceGatherer:
    build = _build.get()
    return _Gatherer(build.link) if build else RTCIceGatherer(*args, **kwargs)


def _make_dtls(*args: Any, **kwargs: Any) -> RTCDtlsTransport:
    return (_DtlsTransport if _build.get() else RTCDtlsTransport)(*args, **kwargs)


def _make_receiver(kind: str, transport: RTCDtlsTransport) -> Any:
    build = _build.get()
    return _Receiver(kind, transport, build.link) if build else RTCRtpReceiver(kind, transport)


def _make_sender(kind: Any, transport: RTCDtlsTransport) -> Any:
    build = _build.get()
    return _Sender(kind, transport, build.link) if build else RTCRtpSender(kind, transport)


class _CertificateSource:
    @staticmethod
    def generateCertificate() -> RTCCertificate:
        return _Certificate.shared() if _build.get() else RTCCertificate.generateCertificate()


def install() -> None:
    """Put our classes where RTCPeerConnection looks for its own; stock use is not changed."""
    module: Any = aiortc_pc
    module.RTCIceGatherer = _make_gatherer
    module.RTCDtlsTransport = _make_dtls
    module.RTCRtpReceiver = _make_receiver
    module.RTCRtpSender = _make_sender
    module.RTCCertificate = _CertificateSource
    logging.getLogger("aiortc").setLevel(logging.ERROR)  # it logs what peers do wrong


class Peer:
    """A peer connection of aiortc, reduced to what a session needs of it."""

    def __init__(self, pc: RTCPeerConnection, link: Link) -> None:
        self._pc = pc
        transceiver = pc.getTransceivers()[0]
        self._dtls: Any = transceiver.receiver.transport
        self._connection: LiteConnection = self._dtls.transport._connection  # type: ignore[assignment]
        self._link = link
        self._payload_type: int = transceiver._codecs[0].payloadType or 0
        self._ssrc = transceiver.sender._ssrc
        self.answer = pc.localDescription.sdp
        self.sends = transceiver.currentDirection in ("sendrecv", "sendonly")
        self._dtls.on("statechange", self._dtls_changed)
        pc.on("connectionstatechange", self._state_changed)
        pc.on("datachannel", self._channel_opened)

    @property
    def dtls_state(self) -> str:
        return str(self._dtls.state)

    def ready(self) -> None:
        """A path is valid: begin DTLS."""
        self._connection.ready()

    def deliver(self, data: bytes) -> bool:
        """A DTLS datagram; False when too many wait."""
        return self._connection.deliver(data)

    def unprotect(self, data: bytes, rtcp: bool) -> bytes | None:
        """Decrypted RTP or RTCP; None when there are no keys yet or it is not authentic."""
        srtp = self._dtls._rx_srtp
        if srtp is None:
            return None
        try:
            plain: bytes = srtp.unprotect_rtcp(data) if rtcp else srtp.unprotect(data)
        except (pylibsrtp.Error, TypeError):
            return None
        return plain

    def protect(self, data: bytes, rtcp: bool) -> bytes | None:
        """Encrypted RTP or RTCP; None before the keys are there."""
        srtp = self._dtls._tx_srtp
        if srtp is None:
            return None
        try:
            secret: bytes = srtp.protect_rtcp(data) if rtcp else srtp.protect(data)
        except (pylibsrtp.Error, TypeError):
            return None
        return secret

    async def close(self) -> None:
        """Say goodbye (DTLS close_notify) and let go of everything."""
        await self._pc.close()

    def _dtls_changed(self) -> None:
        if self._dtls.state == "connected":
            self._link.media_started(self._payload_type, self._ssrc)

    def _channel_opened(self, channel: RTCDataChannel) -> None:
        link = self._link
        if link.channel_opened(channel):
            channel.on("message", lambda data: link.message_received(channel.label, data))
        else:
            channel.close()

    def _state_changed(self) -> None:
        self._link.peer_state(self._pc.connectionState)


async def answer(offer: str, link: Link) -> Peer:
    """Answer an offer: audio both ways with Opus, data channels, one bundled transport.

    Raises NotAcceptable; the offer has been checked by `offer.check_offer` before.
    """
    token = _build.set(_Build(link))
    try:
        pc = _PeerConnection(
            RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
        )
        pc.addTransceiver("audio", direction="sendrecv").setCodecPreferences([_OPUS])
        try:
            await pc.setRemoteDescription(RTCSessionDescription(offer, "offer"))
            for transceiver in pc.getTransceivers():
                if transceiver.kind == "video":
                    transceiver.direction = "inactive"
            await pc.setLocalDescription(await pc.createAnswer())
            return Peer(pc, link)
        except (OperationError, InvalidStateError, InvalidAccessError, ValueError) as exc:
            await pc.close()
            raise NotAcceptable(str(exc)) from exc
        except Exception as exc:  # aiortc asserts and indexes on what peers write
            await pc.close()
            raise NotAcceptable(f"{type(exc).__name__} while answering") from exc
    finally:
        _build.reset(token)


def cut_at_records(data: bytes) -> list[bytes]:
    """Cut a DTLS flight at record borders into datagrams of at most 1200 bytes (RFC 6347 §4.1.1)."""
    datagrams = []
    start = position = 0
    while position + 13 <= len(data):
        end = position + 13 + int.from_bytes(data[position + 11 : position + 13], "big")
        if end - start > MAX_DATAGRAM_SENT_BYTES and position > start:
            datagrams.append(data[start:position])
            start = position
        position = end
    if start < len(data):
        datagrams.append(data[start:])
    return datagrams


async def self_test() -> None:
    """Make one offer and answer; raise SeamBroken unless the answer is what we promise."""

    class TestLink:
        ufrag, password = "selftest", "selftestselftestselftest"

        def __init__(self) -> None:
            self.candidates = [("192.0.2.1", 3478)]

        def send_datagram(self, data: bytes) -> None: ...

        def media_started(self, payload_type: int, ssrc: int) -> None: ...

        def peer_state(self, state: str) -> None: ...

        def channel_opened(self, channel: DataChannel) -> bool:
            return False

        def message_received(self, label: str, data: str | bytes) -> None: ...

    client = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    client.addTransceiver("audio")
    try:
        offer = await client.createOffer()
        lines = []
        for line in offer.sdp.splitlines():
            lines.append(line)
            if line.startswith("a=setup"):
                lines += ["a=ice-ufrag:abcd", "a=ice-pwd:abcdefghijklmnopqrstuvwx"]
        peer = await answer("\r\n".join(lines) + "\r\n", TestLink())
        await peer.close()
    except Exception as exc:
        raise SeamBroken(f"aiortc cannot answer an offer: {type(exc).__name__}: {exc}") from exc
    finally:
        await client.close()
    if "a=ice-lite" not in peer.answer or peer.answer.count("a=candidate:") != 1:
        raise SeamBroken("aiortc's answer is not ICE-lite with exactly one candidate")
