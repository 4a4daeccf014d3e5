"""One of three files that touch private names of aiortc: DTLS, SRTP and SCTP of a call over our ICE.

The others are dtls.py, for what happens inside of DTLS, and stock_seam.py, for peer connections of the app.
"""

import asyncio
from typing import Any

from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection
from aiortc.rtcsctptransport import RTCSctpTransport

from voicerelay.transceiver.channels import DataChannel
from voicerelay.transceiver.dtls import Certificate, Dtls
from voicerelay.transceiver.lite import Link
from voicerelay.transceiver.negotiate import Agreement, Local, NotAcceptable, negotiate
from voicerelay.transceiver.signalling.offer import Offer, check_offer
from voicerelay.transceiver.voice.srtp import Keyed


class SeamBroken(Exception):
    """aiortc does not behave as this file expects; another version is needed."""


class Peer:
    """DTLS, SRTP and SCTP of one call over our ICE; aiortc's parts without its RTCPeerConnection."""

    def __init__(self, agreement: Agreement, link: Link) -> None:
        self.answer = agreement.sdp
        self.sends = agreement.sends
        self._agreement = agreement
        self._link = link
        self._dtls = Dtls(agreement.role, agreement.remote, link.send_datagram)
        self._rx: Keyed | None = None
        self._tx: Keyed | None = None
        self._dtls.on("statechange", self._dtls_changed)
        self._sctp: RTCSctpTransport | None = None
        self._sctp_start: asyncio.Task[None] | None = None
        if agreement.sctp is not None:
            self._make_sctp()

    def renegotiate(self, offer: Offer) -> str:
        """The answer to another offer of the same peer connection. Raises NotAcceptable."""
        before = self._agreement
        agreement = negotiate(offer.description, _local(self._link, self._dtls.certificate), before)
        if agreement.remote.fingerprints != before.remote.fingerprints:
            raise NotAcceptable("this is another peer connection: its certificate is another one")
        self._agreement = agreement
        self.answer, self.sends = agreement.sdp, agreement.sends
        if self._sctp is None and agreement.sctp is not None:
            self._make_sctp()
            self._start_sctp()
        return self.answer

    @property
    def dtls_state(self) -> str:
        return str(self._dtls.state)

    def ready(self) -> None:
        """A path is valid: begin DTLS."""
        self._dtls.begin()

    def deliver(self, data: bytes) -> None:
        """A DTLS datagram."""
        self._dtls.take(data)

    def rx(self) -> Keyed | None:
        """What the client's media is decrypted with, once there are keys."""
        session: Any = self._dtls._rx_srtp
        if self._rx is None and session is not None:
            self._rx = Keyed(session)
        return self._rx

    def tx(self) -> Keyed | None:
        """What ours is encrypted with, once there are keys."""
        session: Any = self._dtls._tx_srtp
        if self._tx is None and session is not None:
            self._tx = Keyed(session)
        return self._tx

    def unprotect(self, data: bytes, rtcp: bool) -> bytes | None:
        """Decrypted RTP or RTCP; None when there are no keys yet or it is not authentic."""
        keyed = self._rx or self.rx()
        if keyed is None:
            return None
        return keyed.unprotect_rtcp(data) if rtcp else keyed.unprotect(data)

    def protect(self, data: bytes, rtcp: bool) -> bytes | None:
        """Encrypted RTP or RTCP; None before the keys are there."""
        keyed = self._tx or self.tx()
        if keyed is None:
            return None
        return keyed.protect_rtcp(data) if rtcp else keyed.protect(data)

    async def close(self) -> None:
        """Say goodbye (SCTP ABORT, DTLS close_notify) and let go of everything."""
        self._dtls.remove_all_listeners()
        if self._sctp is not None:
            await self._sctp.stop()
            self._sctp.remove_all_listeners()
        await self._dtls.stop()

    def _dtls_changed(self) -> None:
        state = self.dtls_state
        if state == "connected":
            self._link.media_started(self._agreement.payload_type, self._agreement.ssrc)
            self._start_sctp()
        elif state in ("failed", "closed"):
            self._link.peer_state(state)

    def _make_sctp(self) -> None:
        self._sctp = RTCSctpTransport(self._dtls)
        self._sctp.on("datachannel", self._channel_opened)

    def _start_sctp(self) -> None:
        if self._sctp is not None and self._agreement.sctp and self.dtls_state == "connected":
            start = self._sctp.start(*self._agreement.sctp)
            self._sctp_start = asyncio.get_running_loop().create_task(start)

    def _channel_opened(self, channel: RTCDataChannel) -> None:
        link = self._link
        if link.channel_opened(channel):
            channel.on("message", lambda data: link.message_received(channel.label, data))
        else:
            channel.close()


def answer(offer: Offer, link: Link) -> Peer:
    """Answer a checked offer. Raises NotAcceptable."""
    return Peer(negotiate(offer.description, _local(link, Certificate.shared())), link)


def _local(link: Link, certificate: Certificate) -> Local:
    return Local(link.ufrag, link.password, link.candidates, certificate.getFingerprints())


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
    client.createDataChannel("test")
    try:
        offer = await client.createOffer()
        lines = []
        for line in offer.sdp.splitlines():
            lines.append(line)
            if line.startswith("a=setup"):
                lines += ["a=ice-ufrag:abcd", "a=ice-pwd:abcdefghijklmnopqrstuvwx"]
        peer = answer(check_offer("\r\n".join(lines) + "\r\n"), TestLink())
        early = peer.unprotect(bytes(40), rtcp=False) or peer.protect(bytes(40), rtcp=False)
        await peer.close()
    except Exception as exc:
        raise SeamBroken(f"aiortc cannot answer an offer: {type(exc).__name__}: {exc}") from exc
    finally:
        await client.close()
    if early is not None:
        raise SeamBroken("aiortc's DTLS transport has no SRTP sessions where we look for them")
    lite = "a=ice-lite" in peer.answer
    if not lite or peer.answer.count("a=candidate:") != peer.answer.count("m="):
        raise SeamBroken("aiortc's answer is not ICE-lite with exactly one candidate")
