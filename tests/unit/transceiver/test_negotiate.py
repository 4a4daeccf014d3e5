"""What answers say, to browsers' offers and to odd ones."""

import re

import pytest
from aiortc.rtcdtlstransport import RTCDtlsFingerprint
from aiortc.sdp import SessionDescription

from tests.unit.transceiver.signalling.test_offer import (
    BROWSERS,
    CHROMIUM,
    FIREFOX,
    WITH_CANDIDATES,
)
from voicerelay.transceiver.lite import HOST_PRIORITY
from voicerelay.transceiver.negotiate import Agreement, Local, NotAcceptable, negotiate
from voicerelay.transceiver.signalling.offer import check_offer

UFRAG, PASSWORD = "serverUfrag000000001", "serverPassword0000000001"
FINGERPRINT = ":".join(["AB"] * 32)
AUDIO = CHROMIUM[CHROMIUM.index("m=audio") : CHROMIUM.index("m=application")]
DATA = CHROMIUM[CHROMIUM.index("m=application") :]


def agreed(sdp: str, *candidates: tuple[str, int]) -> Agreement:
    local = Local(
        UFRAG,
        PASSWORD,
        list(candidates) or [("192.0.2.1", 3478)],
        [RTCDtlsFingerprint("sha-256", FINGERPRINT)],
    )
    return negotiate(check_offer(sdp).description, local)


def answered(sdp: str, *candidates: tuple[str, int]) -> str:
    return agreed(sdp, *candidates).sdp


def sections(sdp: str) -> list[str]:
    return sdp.split("m=")[1:]


@pytest.mark.parametrize("sdp", BROWSERS.values(), ids=BROWSERS)
def test_an_answer_is_lite_bundled_muxed_and_opus_only(sdp: str) -> None:
    found = answered(sdp)

    assert found.count("a=ice-lite\r\n") == 1
    audio, *data = sections(found)
    assert re.findall(r"a=rtpmap:\d+ (\S+)", audio) == ["opus/48000/2"]
    payload_type = "109" if sdp == FIREFOX else "111"
    assert f"a=fmtp:{payload_type} minptime=10;useinbandfec=1\r\n" in audio
    assert re.match(rf"audio \d+ UDP/TLS/RTP/SAVPF {payload_type}\r\n", audio)
    assert "a=rtcp-mux\r\n" in audio
    assert "a=sendrecv\r\n" in audio
    assert len(data) == (0 if sdp == FIREFOX else 1)
    assert ("a=group:BUNDLE 0 1\r\n" if data else "a=group:BUNDLE 0\r\n") in found
    for section in sections(found):
        assert f"a=ice-ufrag:{UFRAG}\r\n" in section
        assert f"a=ice-pwd:{PASSWORD}\r\n" in section
        assert f"a=fingerprint:sha-256 {FINGERPRINT}\r\n" in section


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


def test_the_agreement_says_what_the_answer_does() -> None:
    found = agreed(FIREFOX.replace("a=sendrecv", "a=sendonly"))

    assert (found.payload_type, found.sends, found.role) == (109, False, "client")
    assert f"a=ssrc:{found.ssrc} cname:" in found.sdp
    assert found.sctp is None
    assert agreed(FIREFOX).sends
    assert agreed(CHROMIUM).sctp is not None


def test_an_offer_without_a_direction_is_for_both() -> None:
    """RFC 8866 §6.7."""
    assert "a=sendrecv\r\n" in answered(FIREFOX.replace("a=sendrecv\r\n", ""))


def test_candidates_of_the_offer_make_no_difference() -> None:
    with_candidates, without = (
        negotiate(SessionDescription.parse(sdp), Local(UFRAG, PASSWORD, [("::1", 1)], []))
        for sdp in (WITH_CANDIDATES, CHROMIUM)
    )

    assert with_candidates.remote == without.remote
    assert with_candidates.sdp.count("a=candidate:") == without.sdp.count("a=candidate:") == 2


def video(mid: str) -> str:
    line = AUDIO.replace("m=audio", "m=video").replace("a=mid:0", f"a=mid:{mid}")
    line = re.sub(r"a=(rtpmap|fmtp|rtcp-fb|ssrc|msid).*\r\n", "", line)
    line = line.replace(" 111 63 9 0 8 13 110 126", " 96")
    return line.replace("a=rtcp-rsize\r\n", "a=rtcp-rsize\r\na=rtpmap:96 VP8/90000\r\n")


def test_video_and_second_audio_are_refused_each_in_its_place() -> None:
    """RFC 8829 §5.3.1: port zero; RFC 9143 §7.3: outside the group."""
    second = AUDIO.replace("a=mid:0", "a=mid:3")
    offer = CHROMIUM.replace("BUNDLE 0 1", "BUNDLE 0 1 2 3") + video("2") + second
    found = answered(offer)

    heads = [section.split("\r\n")[0] for section in sections(found)]
    assert heads == [
        "audio 3478 UDP/TLS/RTP/SAVPF 111",
        "application 3478 UDP/DTLS/SCTP webrtc-datachannel",
        "video 0 UDP/TLS/RTP/SAVPF 96",
        "audio 0 UDP/TLS/RTP/SAVPF 111 63 9 0 8 13 110 126",
    ]
    assert "a=group:BUNDLE 0 1\r\n" in found
    for refused, mid in zip(sections(found)[2:], "23", strict=True):
        assert f"a=mid:{mid}\r\n" in refused
        assert "a=inactive\r\n" in refused
        assert "c=IN IP4 0.0.0.0\r\n" in refused
        assert "a=ice-ufrag" not in refused


def test_the_first_audio_with_opus_is_the_call() -> None:
    pcmu = AUDIO.replace("opus", "PCMX").replace("a=mid:0", "a=mid:2")
    offer = CHROMIUM.replace(AUDIO, pcmu + AUDIO).replace("BUNDLE 0 1", "BUNDLE 2 0 1")

    assert [s.split()[1] for s in sections(answered(offer))] == ["0", "3478", "3478"]


@pytest.mark.parametrize(
    "offer",
    [
        CHROMIUM.replace("BUNDLE 0 1", "BUNDLE 0"),
        CHROMIUM.replace("a=group:BUNDLE 0 1\r\n", ""),
        CHROMIUM.replace("a=sctp-port:5000", "a=sctp-port:0"),
        CHROMIUM.replace("a=sctp-port:5000", "a=sctp-port:65536"),
        CHROMIUM.replace("a=sctp-port:5000\r\n", ""),
        CHROMIUM.replace("UDP/DTLS/SCTP webrtc-datachannel", "DTLS/SCTP 5000"),
    ],
    ids=["other transport", "no bundle", "port 0", "port 65536", "no port", "old draft"],
)
def test_data_channels_that_cannot_be_had_cost_only_themselves(offer: str) -> None:
    found = agreed(offer)

    assert [section.split()[1] for section in sections(found.sdp)] == ["3478", "0"]
    assert found.sctp is None
    assert ("a=group:BUNDLE 0\r\n" in found.sdp) == ("a=group:BUNDLE" in offer)


def test_a_second_data_section_is_refused() -> None:
    offer = CHROMIUM.replace("BUNDLE 0 1", "BUNDLE 0 1 2") + DATA.replace("a=mid:1", "a=mid:2")

    assert [s.split()[1] for s in sections(answered(offer))] == ["3478", "3478", "0"]


@pytest.mark.parametrize(
    "offer",
    [
        CHROMIUM.replace("a=rtcp-mux\r\n", ""),
        CHROMIUM.replace("opus/48000", "opus/16000"),
        CHROMIUM.replace("m=audio 9", "m=audio 0") + AUDIO.replace("opus", "opvs"),
    ],
    ids=["no rtcp-mux", "another clock", "opus refused by themselves"],
)
def test_an_offer_without_a_call_in_it_is_not_acceptable(offer: str) -> None:
    description = SessionDescription.parse(offer)

    with pytest.raises(NotAcceptable):
        negotiate(description, Local(UFRAG, PASSWORD, [("192.0.2.1", 3478)], []))


@pytest.mark.parametrize("sdp", BROWSERS.values(), ids=BROWSERS)
def test_an_answer_can_be_read_again(sdp: str) -> None:
    found = agreed(sdp)

    read = SessionDescription.parse(found.sdp)

    assert str(read) == found.sdp
    assert [s.kind for s in read.media] == [s.kind for s in check_offer(sdp).description.media]


def test_a_renegotiation_keeps_role_stream_and_origin() -> None:
    local = Local(
        UFRAG, PASSWORD, [("192.0.2.1", 3478)], [RTCDtlsFingerprint("sha-256", FINGERPRINT)]
    )
    first = agreed(CHROMIUM.replace("a=setup:actpass", "a=setup:active"))

    second = negotiate(check_offer(CHROMIUM).description, local, first)

    assert (first.role, second.role) == ("server", "server")
    assert "a=setup:passive\r\n" in second.sdp
    assert second.ssrc == first.ssrc
    assert second.origin == (first.origin[0], first.origin[1] + 1)
