"""Offers as the world makes them: what each becomes, in the place where it was offered."""

import re

import pytest

from tests.unit.transceiver.signalling.test_offer import CHROMIUM, FINGERPRINT, FIREFOX
from tests.unit.transceiver.test_negotiate import agreed, answered, sections
from voicerelay.transceiver.signalling.offer import MAX_OFFER_BYTES, check_offer

HEAD = CHROMIUM[: CHROMIUM.index("m=audio")]
AUDIO = CHROMIUM[CHROMIUM.index("m=audio") : CHROMIUM.index("m=application")]
DATA = CHROMIUM[CHROMIUM.index("m=application") :]
TRANSPORT = f"""a=ice-ufrag:mS5D
a=ice-pwd:i0xTq3rFyvV0ZEaV1V9YJ1cP
a=ice-options:trickle renomination goog-sped-v1
a=fingerprint:sha-256 {FINGERPRINT}
a=setup:actpass
"""
VIDEO_CODECS = """a=rtpmap:96 VP8/90000
a=rtcp-fb:96 goog-remb
a=rtcp-fb:96 nack pli
a=rtpmap:97 rtx/90000
a=fmtp:97 apt=96
a=rtpmap:98 H264/90000
a=fmtp:98 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f
a=rid:0 send
a=rid:1 send
a=simulcast:send 0;1
"""
VIDEO = f"""m=video 9 UDP/TLS/RTP/SAVPF 96 97 98
c=IN IP4 0.0.0.0
{TRANSPORT}a=mid:2
a=sendrecv
a=rtcp-mux
{VIDEO_CODECS}""".replace("\n", "\r\n")
# Safari on iOS: libwebrtc's, with its own order of codecs and its host candidates hidden.
IOS = f"""v=0
o=- 5170373480404870562 2 IN IP4 127.0.0.1
s=-
t=0 0
a=group:BUNDLE 0 1 2
a=extmap-allow-mixed
a=msid-semantic: WMS 7b2f0c0e-6f0b-4b6e-8d43-9f6b3b3f7c11
m=audio 9 UDP/TLS/RTP/SAVPF 111 103 9 102 0 8 105 13 110 113 126
c=IN IP4 0.0.0.0
a=rtcp:9 IN IP4 0.0.0.0
a=candidate:2795255774 1 udp 2113937151 3c6a4d5b-7d0e-4f0c-a8a7-2a0b8f0f3a5e.local 58312 typ host generation 0
{TRANSPORT}a=mid:0
a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level
a=sendrecv
a=msid:7b2f0c0e-6f0b-4b6e-8d43-9f6b3b3f7c11 0f2f5b1e-9d3e-4b5e-8b1e-0e4f0c0d7a21
a=rtcp-mux
a=rtpmap:111 opus/48000/2
a=rtcp-fb:111 transport-cc
a=fmtp:111 minptime=10;useinbandfec=1
a=rtpmap:103 ISAC/16000
a=rtpmap:9 G722/8000
a=rtpmap:102 ILBC/8000
a=rtpmap:0 PCMU/8000
a=rtpmap:8 PCMA/8000
a=rtpmap:105 CN/16000
a=rtpmap:13 CN/8000
a=rtpmap:110 telephone-event/48000
a=rtpmap:113 telephone-event/16000
a=rtpmap:126 telephone-event/8000
m=video 9 UDP/TLS/RTP/SAVPF 96 97 98
c=IN IP4 0.0.0.0
{TRANSPORT}a=mid:1
a=recvonly
a=rtcp-mux
a=rtcp-rsize
{VIDEO_CODECS}m=application 9 UDP/DTLS/SCTP webrtc-datachannel
c=IN IP4 0.0.0.0
{TRANSPORT}a=mid:2
a=sctp-port:5000
a=max-message-size:262144
a=sctp-init:AQAAJA
""".replace("\n", "\r\n")
# GStreamer's webrtcbin as offerer.
GSTREAMER = f"""v=0
o=- 2462153219837439813 0 IN IP4 0.0.0.0
s=-
t=0 0
a=ice-options:trickle
a=group:BUNDLE audio0
m=audio 9 UDP/TLS/RTP/SAVPF 97
c=IN IP4 0.0.0.0
a=setup:actpass
a=ice-ufrag:zUM+qz5nWzJzPuYv9JDb
a=ice-pwd:N1u3Z0qRUSvyyZQzGzGqCQbZr6TQhRzq
a=rtcp-mux
a=rtcp-rsize
a=sendrecv
a=rtpmap:97 OPUS/48000/2
a=rtcp-fb:97 transport-cc
a=ssrc:3724172312 msid:user2467@host-8a2b webrtctransceiver0
a=mid:audio0
a=fingerprint:sha-256 {FINGERPRINT}
""".replace("\n", "\r\n")


def kinds(sdp: str) -> list[tuple[str, bool]]:
    """Kind of each section, and whether it is accepted."""
    return [(s.split()[0], s.split()[1] != "0") for s in sections(sdp)]


def test_video_is_declined_between_audio_and_data() -> None:
    bundle = CHROMIUM.replace("BUNDLE 0 1", "BUNDLE 0 2 1")
    head, rest = bundle[: bundle.index("m=audio")], AUDIO + VIDEO + DATA

    found = answered(head + rest)

    assert kinds(found) == [("audio", True), ("video", False), ("application", True)]
    assert "a=group:BUNDLE 0 1\r\n" in found
    assert "a=inactive" in sections(found)[1]


def test_an_ios_offer_is_answered_and_nothing_of_it_is_repeated_that_we_do_not_speak() -> None:
    found = answered(IOS)

    assert kinds(found) == [("audio", True), ("video", False), ("application", True)]
    for unknown in ("goog-sped", "sctp-init", "renomination", ".local", "extmap-allow-mixed"):
        assert unknown not in found


def test_gstreamers_offer_is_answered_with_its_own_names() -> None:
    found = answered(GSTREAMER)

    assert "a=mid:audio0\r\n" in found
    assert "a=group:BUNDLE audio0\r\n" in found
    assert "a=rtpmap:97 opus/48000/2\r\n" in found


@pytest.mark.parametrize(
    ("setup", "role", "answer"),
    [
        ("actpass", "client", "active"),
        ("passive", "client", "active"),
        ("active", "server", "passive"),
    ],
)
@pytest.mark.parametrize("offer", [CHROMIUM, FIREFOX, IOS, GSTREAMER])
def test_each_dtls_role_is_answered_with_the_other(
    offer: str, setup: str, role: str, answer: str
) -> None:
    agreement = agreed(offer.replace("a=setup:actpass", f"a=setup:{setup}"))

    assert agreement.role == role
    assert set(re.findall(r"a=setup:(\w+)", agreement.sdp)) == {answer}


@pytest.mark.parametrize("count", [0, 1, 600])
def test_as_many_candidates_as_fit_make_no_difference(count: int) -> None:
    lines = "".join(
        f"a=candidate:{n} 1 udp 2122260223 198.51.100.{n % 256} {n + 1024} typ host generation 0\r\n"
        for n in range(count)
    )
    sdp = HEAD + AUDIO.replace("a=mid:0\r\n", "a=mid:0\r\n" + lines) + DATA

    assert len(sdp) <= MAX_OFFER_BYTES
    assert check_offer(sdp) == check_offer(CHROMIUM)


def test_thousands_of_short_candidates_make_no_difference() -> None:
    lines = "a=candidate:1 1 udp 1 a 9\r\n" * 2300

    assert len(CHROMIUM + lines) <= MAX_OFFER_BYTES
    assert check_offer(CHROMIUM + lines) == check_offer(CHROMIUM)


def test_an_offer_of_64_kb_is_answered_as_a_small_one() -> None:
    sdp = CHROMIUM + "a=x:" + "y" * (MAX_OFFER_BYTES - len(CHROMIUM) - 6) + "\r\n"

    assert len(sdp) == MAX_OFFER_BYTES
    assert kinds(answered(sdp)) == kinds(answered(CHROMIUM))


@pytest.mark.parametrize("silent", ["application", "video"])
def test_a_bundled_section_may_leave_transport_to_the_first(silent: str) -> None:
    bare = "".join(
        line + "\r\n"
        for line in (VIDEO if silent == "video" else DATA).splitlines()
        if not line.startswith(("a=ice", "a=fingerprint", "a=setup"))
    )
    head = HEAD.replace("BUNDLE 0 1", "BUNDLE 0 1 2")

    found = answered(head + AUDIO + bare)

    assert kinds(found) == [("audio", True), (silent, silent == "application")]


def test_a_section_that_was_stopped_stays_refused() -> None:
    stopped = "m=video 0 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=inactive\r\na=mid:2\r\n"

    assert kinds(answered(HEAD + AUDIO + stopped + DATA)) == [
        ("audio", True),
        ("video", False),
        ("application", True),
    ]


def test_audio_that_is_bundle_only_is_a_call() -> None:
    audio = AUDIO.replace("m=audio 9", "m=audio 0").replace(
        "a=mid:0\r\n", "a=mid:0\r\na=bundle-only\r\n"
    )
    head = HEAD.replace("BUNDLE 0 1", "BUNDLE 2 0")

    assert kinds(answered(head + VIDEO + audio)) == [("video", False), ("audio", True)]


def test_data_channels_of_old_drafts_cost_only_themselves() -> None:
    old = DATA.replace("UDP/DTLS/SCTP webrtc-datachannel", "DTLS/SCTP 5000").replace(
        "a=sctp-port:5000", "a=sctpmap:5000 webrtc-datachannel 1024"
    )

    assert kinds(answered(HEAD + AUDIO + old)) == [("audio", True), ("application", False)]
