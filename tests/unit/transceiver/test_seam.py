"""aiortc over our ICE: what our answers promise, and that nobody else's peer connections change."""

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import aioice
import aiortc.rtcpeerconnection as aiortc_pc
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.rtcdtlstransport import RTCCertificate, RTCDtlsTransport
from aiortc.rtcicetransport import RTCIceGatherer
from aiortc.rtcrtpreceiver import RTCRtpReceiver
from aiortc.rtcrtpsender import RTCRtpSender

from tests.unit.transceiver.test_offer import BROWSERS, CHROMIUM, FIREFOX, WITH_CANDIDATES
from voicerelay.transceiver import seam
from voicerelay.transceiver.channels import DataChannel
from voicerelay.transceiver.lite import HOST_PRIORITY
from voicerelay.transceiver.offer import check_offer
from voicerelay.transceiver.seam import (
    CERTIFICATE_LIFETIME_S,
    NotAcceptable,
    answer,
)

PATCHED = (
    "RTCIceGatherer",
    "RTCDtlsTransport",
    "RTCRtpReceiver",
    "RTCRtpSender",
    "RTCCertificate",
)


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


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Our classes in aiortc's place, and its own again afterwards."""
    for name in PATCHED:
        monkeypatch.setattr(aiortc_pc, name, getattr(aiortc_pc, name))
    seam.install()
    return iter([None])


def answered(sdp: str, *candidates: tuple[str, int]) -> str:
    """Our answer to an offer, as a session makes it."""

    async def run() -> str:
        peer = await answer(check_offer(sdp).sdp, FakeLink(*candidates))
        await peer.close()
        return peer.answer

    return asyncio.run(run())


def sections(sdp: str) -> list[str]:
    return sdp.split("m=")[1:]


def test_the_self_test_passes() -> None:
    asyncio.run(seam.self_test())


@pytest.mark.parametrize("sdp", BROWSERS.values(), ids=BROWSERS)
def test_an_answer_is_lite_bundled_muxed_and_opus_only(sdp: str) -> None:
    found = answered(sdp)

    assert found.count("a=ice-lite\r\n") == 1
    audio, *data = sections(found)
    assert re.findall(r"a=rtpmap:\d+ (\S+)", audio) == ["opus/48000/2"]
    payload_type = "109" if sdp == FIREFOX else "111"
    assert re.match(rf"audio \d+ UDP/TLS/RTP/SAVPF {payload_type}\r\n", audio)
    assert "a=rtcp-mux\r\n" in audio
    assert "a=sendrecv\r\n" in audio
    assert len(data) == (0 if sdp == FIREFOX else 1)
    assert ("a=group:BUNDLE 0 1\r\n" if data else "a=group:BUNDLE 0\r\n") in found
    for section in sections(found):
        assert f"a=ice-ufrag:{FakeLink.ufrag}\r\n" in section
        assert f"a=ice-pwd:{FakeLink.password}\r\n" in section
        assert "a=fingerprint:sha-256 " in section


@pytest.mark.parametrize(
    "candidates", [[("192.0.2.1", 3478)], [("192.0.2.1", 3478), ("2001:db8::1", 3478)]]
)
def test_an_answer_has_exactly_one_candidate_a_listen_address(
    candidates: list[tuple[str, int]],
) -> None:
    (audio,) = sections(answered(FIREFOX, *candidates))

    found = re.findall(r"a=candidate:(\d) 1 udp (\d+) (\S+) (\d+) typ host\r\n", audio)
    assert found == [
        (str(n + 1), str(HOST_PRIORITY - 256 * n), host, str(port))
        for n, (host, port) in enumerate(candidates)
    ]
    assert audio.count("a=candidate:") == len(candidates)
    assert "a=end-of-candidates\r\n" in audio


def test_a_data_channel_shares_the_transport() -> None:
    _, data = sections(answered(CHROMIUM))

    assert data.startswith("application ")
    assert "UDP/DTLS/SCTP webrtc-datachannel\r\n" in data
    assert "a=sctp-port:5000\r\n" in data


@pytest.mark.parametrize(
    ("offered", "answered_with"),
    [("actpass", "active"), ("active", "passive"), ("passive", "active")],
)
def test_the_answer_takes_the_dtls_role_that_is_left(offered: str, answered_with: str) -> None:
    """RFC 8842 §5.3."""
    found = answered(CHROMIUM.replace("a=setup:actpass", f"a=setup:{offered}"))

    assert set(re.findall(r"a=setup:(\w+)", found)) == {answered_with}


@pytest.mark.parametrize(
    ("offered", "answered_with"),
    [("sendrecv", "sendrecv"), ("sendonly", "recvonly"), ("recvonly", "sendonly")],
)
def test_the_answer_takes_the_direction_that_fits(offered: str, answered_with: str) -> None:
    (audio,) = sections(answered(FIREFOX.replace("a=sendrecv", f"a={offered}")))

    assert f"a={answered_with}\r\n" in audio


def test_remote_candidates_are_neither_resolved_nor_contacted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # given an offer whose candidates are left in, and a resolver nobody may ask
    def resolve(*_: Any, **__: Any) -> None:
        raise AssertionError("a name was looked up")

    async def run() -> tuple[list[bytes], list[Any]]:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
        monkeypatch.setattr(aioice.mdns, "create_mdns_protocol", resolve)
        link = FakeLink()
        peer = await answer(WITH_CANDIDATES, link)
        await peer.close()
        return link.sent, peer._connection.remote_candidates

    # when it is answered, then nothing was sent to them, nor kept of them
    assert asyncio.run(run()) == ([], [])


def test_a_video_line_costs_a_call_nothing_and_is_never_sent_on() -> None:
    video = CHROMIUM[CHROMIUM.index("m=audio") : CHROMIUM.index("m=application")]
    video = video.replace("m=audio", "m=video").replace("a=mid:0", "a=mid:2")
    video = re.sub(r"a=(rtpmap|fmtp|rtcp-fb|ssrc|msid).*\r\n", "", video)
    video = video.replace(" 111 63 9 0 8 13 110 126", " 96")
    video = video.replace("a=rtcp-rsize\r\n", "a=rtcp-rsize\r\na=rtpmap:96 VP8/90000\r\n")
    found = answered(CHROMIUM.replace("BUNDLE 0 1", "BUNDLE 0 1 2") + video)

    assert [section.split()[0] for section in sections(found)] == ["audio", "application", "video"]
    assert "a=sendrecv\r\n" in sections(found)[0]
    assert not re.search("a=send", sections(found)[2])


def test_an_offer_that_aiortc_cannot_answer_is_not_acceptable() -> None:
    async def run() -> None:
        for sdp in (CHROMIUM.replace("a=rtcp-mux\r\n", ""), CHROMIUM.replace("opus", "opvs")):
            with pytest.raises(NotAcceptable):
                await answer(sdp, FakeLink())

    asyncio.run(run())


# ---- what stays as it was ------------------------------------------------------------------------


def test_a_stock_peer_connection_in_the_same_process_stays_stock() -> None:
    async def run() -> None:
        # given one of ours that lives
        ours = await answer(check_offer(CHROMIUM).sdp, FakeLink())

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


def test_all_our_calls_share_one_certificate_until_it_is_old(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fingerprint() -> str:
        found = re.search(r"a=fingerprint:sha-256 (\S+)", answered(FIREFOX))
        assert found
        return found[1]

    first, second = fingerprint(), fingerprint()
    monkeypatch.setattr(
        seam._Certificate, "_made_at", seam._Certificate._made_at - CERTIFICATE_LIFETIME_S - 1
    )
    third, fourth = fingerprint(), fingerprint()

    assert (first, third) == (second, fourth)
    assert first != third
