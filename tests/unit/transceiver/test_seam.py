"""aiortc over our ICE: what our answers promise, and that nobody else's peer connections change."""

import asyncio
import gc
import re
import weakref
from typing import Any

import aioice
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.rtcdatachannel import RTCDataChannel, RTCDataChannelParameters
from aiortc.rtcdtlstransport import RTCCertificate, RTCDtlsParameters, RTCDtlsTransport
from aiortc.rtcicetransport import RTCIceGatherer
from aiortc.rtcrtpreceiver import RTCRtpReceiver
from aiortc.rtcrtpsender import RTCRtpSender
from aiortc.rtcsctptransport import RTCSctpTransport
from aiortc.sdp import SessionDescription

from tests.unit.transceiver.signalling.test_offer import CHROMIUM, FINGERPRINT, WITH_CANDIDATES
from voicerelay.transceiver import seam
from voicerelay.transceiver.channels import DataChannel
from voicerelay.transceiver.dtls import MAX_DATAGRAM_SENT_BYTES, Certificate, Dtls
from voicerelay.transceiver.negotiate import NotAcceptable
from voicerelay.transceiver.seam import Peer, answer
from voicerelay.transceiver.signalling.offer import Offer, check_offer


class FakeLink:
    """A session without anything behind it."""

    ufrag = "serverUfrag000000001"
    password = "serverPassword0000000001"

    def __init__(self, *candidates: tuple[str, int]) -> None:
        self.candidates = list(candidates) or [("192.0.2.1", 3478)]
        self.sent: list[bytes] = []
        self.flight = asyncio.Event()
        self.states: list[str] = []

    def send_datagram(self, data: bytes) -> None:
        self.sent.append(data)
        self.flight.set()

    def media_started(self, payload_type: int, ssrc: int) -> None: ...

    def peer_state(self, state: str) -> None:
        self.states.append(state)

    def channel_opened(self, channel: DataChannel) -> bool:
        return True

    def message_received(self, label: str, data: str | bytes) -> None: ...


def test_the_self_test_passes() -> None:
    asyncio.run(seam.self_test())


def test_remote_candidates_are_neither_resolved_nor_contacted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # given an offer whose candidates are left in, and a resolver nobody may ask
    def resolve(*_: Any, **__: Any) -> None:
        raise AssertionError("a name was looked up")

    async def run() -> list[bytes]:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
        monkeypatch.setattr(aioice.mdns, "create_mdns_protocol", resolve)
        link = FakeLink()
        peer = answer(Offer("", "mS5D", SessionDescription.parse(WITH_CANDIDATES)), link)
        await peer.close()
        return link.sent

    # when it is answered, then nothing was sent to them
    assert asyncio.run(run()) == []


async def peer_with_flight(link: FakeLink) -> Peer:
    peer = answer(check_offer(CHROMIUM), link)
    peer.ready()
    async with asyncio.timeout(10):
        await link.flight.wait()
    return peer


def test_dtls_begins_when_a_path_is_valid_and_sends_what_every_path_can_carry() -> None:
    async def run() -> None:
        link = FakeLink()
        waiting = answer(check_offer(CHROMIUM), link)
        assert not link.sent
        await waiting.close()

        peer = await peer_with_flight(link)

        assert all(0 < len(data) <= MAX_DATAGRAM_SENT_BYTES for data in link.sent)
        assert link.sent[0][0] == 22  # a handshake record: our ClientHello
        assert peer.dtls_state == "connecting"
        await peer.close()

    asyncio.run(run())


def test_a_call_that_ends_during_its_handshake_leaves_no_task_that_failed() -> None:
    """asyncio would log a traceback for each of them, as often as a client likes."""
    failed: list[str] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: failed.append(context["message"]))
        peer = await peer_with_flight(FakeLink())

        await peer.close()

        del peer
        for _ in range(10):
            await asyncio.sleep(0)
        gc.collect()

    asyncio.run(run())

    assert failed == []


def test_a_closed_peer_is_gone_without_the_collector() -> None:
    """Its SSL object holds 70 KB that the collector does not see."""

    async def run() -> None:
        peer = await peer_with_flight(FakeLink())
        await peer.close()
        await asyncio.sleep(0)
        gc.disable()
        seen = weakref.ref(peer._dtls)

        del peer

        gc.enable()
        assert seen() is None

    asyncio.run(run())


def test_before_the_keys_are_there_nothing_is_encrypted_or_decrypted() -> None:
    async def run() -> None:
        peer = await peer_with_flight(FakeLink())

        for rtcp in (False, True):
            assert peer.unprotect(bytes(40), rtcp) is None
            assert peer.protect(bytes(40), rtcp) is None
        await peer.close()

    asyncio.run(run())


class Caller(FakeLink):
    """A link with the client at its other end: its DTLS and SCTP, and what either side has heard."""

    def __init__(self, most_channels: int = 1) -> None:
        super().__init__()
        ours = Certificate.shared().getFingerprints()
        self.peer: Peer | None = None
        self.dtls = Dtls("server", RTCDtlsParameters(ours), self._to_server)
        self.sctp = RTCSctpTransport(self.dtls)
        self.offer = check_offer(CHROMIUM.replace(FINGERPRINT, ours[0].value))
        self.most_channels = most_channels
        self.channels: list[DataChannel] = []
        self.heard: asyncio.Queue[tuple[str, str | bytes]] = asyncio.Queue()

    def _to_server(self, data: bytes) -> None:
        assert self.peer is not None
        self.peer.deliver(data)

    def send_datagram(self, data: bytes) -> None:
        super().send_datagram(data)
        self.dtls.take(data)

    def channel_opened(self, channel: DataChannel) -> bool:
        self.channels.append(channel)
        return len(self.channels) <= self.most_channels

    def message_received(self, label: str, data: str | bytes) -> None:
        self.heard.put_nowait((label, data))

    async def call(self) -> None:
        self.peer = answer(self.offer, self)
        self.dtls.begin()
        self.peer.ready()
        await self.sctp.start(None, 5000)

    def open(self, label: str) -> tuple[RTCDataChannel, asyncio.Queue[str | bytes]]:
        channel = RTCDataChannel(self.sctp, RTCDataChannelParameters(label=label))
        messages: asyncio.Queue[str | bytes] = asyncio.Queue()
        channel.on("message", messages.put_nowait)
        return channel, messages

    async def end(self) -> None:
        assert self.peer is not None
        await self.peer.close()
        await self.sctp.stop()
        await self.dtls.stop()


def test_a_data_channel_carries_messages_both_ways() -> None:
    async def run() -> None:
        async with asyncio.timeout(10):
            # given a call whose client has opened a channel
            caller = Caller()
            await caller.call()
            channel, messages = caller.open("chat")
            opened = asyncio.Event()
            channel.on("open", opened.set)
            await opened.wait()

            # when it is used, with a message of many datagrams
            channel.send("hello")
            assert await caller.heard.get() == ("chat", "hello")
            long = bytes(range(256)) * 200
            channel.send(long)
            assert await caller.heard.get() == ("chat", long)
            caller.channels[0].send(long)

            # then it arrives as it was
            assert await messages.get() == long
            await caller.end()

    asyncio.run(run())


def test_a_channel_that_the_session_does_not_want_is_closed() -> None:
    async def run() -> None:
        async with asyncio.timeout(10):
            caller = Caller(most_channels=0)
            await caller.call()
            closed = asyncio.Event()
            channel, _ = caller.open("chat")
            channel.on("close", closed.set)

            await closed.wait()

            assert channel.readyState == "closed"
            await caller.end()

    asyncio.run(run())


# ---- what stays as it was ------------------------------------------------------------------------


def test_a_stock_peer_connection_in_the_same_process_stays_stock() -> None:
    async def run() -> None:
        # given one of ours that lives
        ours = answer(check_offer(CHROMIUM), FakeLink())

        # when stock ones make and answer an offer beside it
        offering: Any = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        answering: Any = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        transceiver = offering.addTransceiver("audio")
        offering.createDataChannel("chat")
        await offering.createOffer()
        await answering.setRemoteDescription(RTCSessionDescription(CHROMIUM, "offer"))
        found = await answering.createAnswer()

        # then all their parts are aiortc's own
        for part in (transceiver, answering.getTransceivers()[0]):
            transport = part.receiver.transport
            assert type(part.receiver) is RTCRtpReceiver
            assert type(part.sender) is RTCRtpSender
            assert type(transport) is RTCDtlsTransport
            assert type(transport.transport.iceGatherer) is RTCIceGatherer
            assert type(transport.transport._connection) is aioice.Connection
        certificates = [pc._RTCPeerConnection__certificates for pc in (offering, answering)]
        assert all(type(c) is RTCCertificate for (c,) in certificates)
        assert "a=ice-lite" not in found.sdp
        assert len(re.findall(r"a=rtpmap:", found.sdp)) > 1
        for pc in (offering, answering, ours):
            await pc.close()

    asyncio.run(run())


def test_a_renegotiation_may_bring_data_channels_but_no_other_certificate() -> None:
    async def run() -> None:
        peer = answer(check_offer(CHROMIUM[: CHROMIUM.index("m=application")]), FakeLink())
        assert "m=application" not in peer.answer

        again = peer.renegotiate(check_offer(CHROMIUM))

        assert "m=application" in again
        assert peer._sctp is not None
        with pytest.raises(NotAcceptable, match="certificate"):
            peer.renegotiate(check_offer(CHROMIUM.replace("A0:A1", "A1:A0")))
        assert peer.answer == again
        await peer.close()

    asyncio.run(run())
