"""Which offers become a call, and what the others are refused with."""

import contextlib
import string
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicerelay.transceiver.signalling.offer import Offer, OfferError, check_offer

FINGERPRINT = ":".join(f"{byte:02X}" for byte in range(0xA0, 0xC0))
CHROMIUM = f"""v=0
o=- 4611731400430051336 2 IN IP4 127.0.0.1
s=-
t=0 0
a=group:BUNDLE 0 1
a=extmap-allow-mixed
a=msid-semantic: WMS 4f1bb6d0-8f0c-4a3e-b0a5-6b3b8a5f2f10
m=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0 8 13 110 126
c=IN IP4 0.0.0.0
a=rtcp:9 IN IP4 0.0.0.0
a=ice-ufrag:mS5D
a=ice-pwd:i0xTq3rFyvV0ZEaV1V9YJ1cP
a=ice-options:trickle
a=fingerprint:sha-256 {FINGERPRINT}
a=setup:actpass
a=mid:0
a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level
a=extmap:2 http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time
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
m=application 9 UDP/DTLS/SCTP webrtc-datachannel
c=IN IP4 0.0.0.0
a=ice-ufrag:mS5D
a=ice-pwd:i0xTq3rFyvV0ZEaV1V9YJ1cP
a=ice-options:trickle
a=fingerprint:sha-256 {FINGERPRINT}
a=setup:actpass
a=mid:1
a=sctp-port:5000
a=max-message-size:262144
""".replace("\n", "\r\n")
FIREFOX = f"""v=0
o=mozilla...THIS_IS_SDPARTA-99.0 5163892216143827913 0 IN IP4 0.0.0.0
s=-
t=0 0
a=fingerprint:sha-256 {FINGERPRINT}
a=group:BUNDLE 0
a=ice-options:trickle
a=msid-semantic:WMS *
m=audio 9 UDP/TLS/RTP/SAVPF 109 9 0 8 101
c=IN IP4 0.0.0.0
a=sendrecv
a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level
a=extmap:2/recvonly urn:ietf:params:rtp-hdrext:csrc-audio-level
a=extmap:3 urn:ietf:params:rtp-hdrext:sdes:mid
a=fmtp:109 maxplaybackrate=48000;stereo=1
a=fmtp:101 0-15
a=ice-pwd:7d9f7f2c4f7a2d3f6e0a4f5b8a3c1e9d
a=ice-ufrag:5f0d6e4a
a=mid:0
a=msid:- {{c9b1a7e6-7d1b-4f2e-8a8e-0f2c5d3b6a11}}
a=rtcp-mux
a=rtcp-rsize
a=rtpmap:109 opus/48000/2
a=rtpmap:9 G722/8000/1
a=rtpmap:0 PCMU/8000
a=rtpmap:8 PCMA/8000
a=rtpmap:101 telephone-event/8000/1
a=setup:actpass
a=ssrc:1718206513 cname:{{b0a5b6d2-5a1e-4e0a-9d53-1b7d2f6a3c44}}
""".replace("\n", "\r\n")
LOCAL_CANDIDATES = (
    "a=candidate:1467250027 1 udp 2122260223 6fb0e1ac-f1a6-4e5e-9c4a-3d5d1b7e1f0a.local 46154"
    " typ host generation 0 network-cost 999\r\n"
    "a=candidate:1467250027 1 tcp 1518280447 10.0.0.1 9 typ host tcptype active\r\n"
)
WITH_CANDIDATES = CHROMIUM.replace("a=mid:0\r\n", "a=mid:0\r\n" + LOCAL_CANDIDATES)
BROWSERS = {"chromium": CHROMIUM, "firefox": FIREFOX, ".local": WITH_CANDIDATES}


def without(prefix: str) -> str:
    """Chromium's offer without the lines that begin so."""
    kept = (line for line in CHROMIUM.splitlines(True) if not line.startswith(prefix))
    return "".join(kept)


@pytest.mark.parametrize("sdp", BROWSERS.values(), ids=BROWSERS)
def test_a_browsers_offer_is_accepted_and_keeps_no_candidate(sdp: str) -> None:
    offer = check_offer(sdp)

    assert offer.ice_ufrag in ("mS5D", "5f0d6e4a")
    assert "a=candidate" not in offer.sdp
    assert ".local" not in offer.sdp


def test_candidates_make_no_difference() -> None:
    assert check_offer(WITH_CANDIDATES) == check_offer(CHROMIUM)


def test_bare_line_feeds_are_read_too() -> None:
    assert check_offer(CHROMIUM.replace("\r\n", "\n")) == check_offer(CHROMIUM)


SESSION = CHROMIUM[: CHROMIUM.index("m=audio")]
AUDIO = CHROMIUM[CHROMIUM.index("m=audio") : CHROMIUM.index("m=application")]
REFUSED = {
    "empty": ("", 400, "malformed_sdp"),
    "json": ('{"sdp": "v=0"}', 400, "malformed_sdp"),
    "no version": (CHROMIUM[5:], 400, "malformed_sdp"),
    "bad m-line": (SESSION + "m=audio\r\n", 400, "malformed_sdp"),
    "bad payload type": (CHROMIUM.replace(" 111 63", " 111 999"), 400, "malformed_sdp"),
    "bad number": (CHROMIUM.replace("a=sctp-port:5000", "a=sctp-port:x"), 400, "malformed_sdp"),
    "bad setup": (CHROMIUM.replace("actpass", "whatever"), 400, "malformed_sdp"),
    "attribute without value": (CHROMIUM + "a=fingerprint\r\n", 400, "malformed_sdp"),
    "no ufrag": (without("a=ice-ufrag"), 400, "no_ice_credentials"),
    "no password": (without("a=ice-pwd"), 400, "no_ice_credentials"),
    "empty ufrag": (CHROMIUM.replace("ufrag:mS5D", "ufrag:"), 400, "no_ice_credentials"),
    "no fingerprint": (without("a=fingerprint"), 400, "no_dtls"),
    "no setup": (without("a=setup"), 400, "no_dtls"),
    "no media": (SESSION, 406, "no_audio"),
    "audio refused": (CHROMIUM.replace("m=audio 9", "m=audio 0"), 406, "no_audio"),
    "data only": (SESSION + CHROMIUM[CHROMIUM.index("m=application") :], 406, "no_audio"),
    "no opus": (CHROMIUM.replace("opus/48000/2", "L16/48000/2"), 406, "no_opus"),
    "no codec": (without("a=rtpmap"), 400, "malformed_sdp"),
    "unknown media": (CHROMIUM + AUDIO.replace("m=audio", "m=text"), 406, "media_kind"),
}


@pytest.mark.parametrize(("sdp", "status", "code"), REFUSED.values(), ids=REFUSED)
def test_an_offer_without_what_a_call_needs_is_refused_with_its_reason(
    sdp: str, status: int, code: str
) -> None:
    with pytest.raises(OfferError) as caught:
        check_offer(sdp)

    assert (caught.value.status, caught.value.code) == (status, code)


def test_a_small_offer_never_becomes_a_large_description() -> None:
    """An offer is read before anybody is known: its cost must stay in proportion to its size."""
    # given a few kB that name many codecs, and feedback for all of them
    sdp = SESSION + AUDIO + "a=rtpmap:1 a/1\r\n" * 150 + "a=rtcp-fb:* a\r\n" * 300

    # when it is read
    tracemalloc.start()
    try:
        with contextlib.suppress(OfferError):
            check_offer(sdp)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # then it has cost a small multiple of it, not the product of the two
    assert peak_bytes < 100 * len(sdp)


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=300), st.booleans())
def test_any_text_is_an_offer_or_refused_and_nothing_else(text: str, version: bool) -> None:
    with contextlib.suppress(OfferError):
        check_offer("v=0\r\n" + text if version else text)


EDITS = st.tuples(
    st.sampled_from(("drop", "double", "swap", "cut", "insert")),
    st.integers(0, 200),
    st.integers(0, 200),
    st.text(string.printable, max_size=6),
)


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(list(BROWSERS.values())), st.lists(EDITS, min_size=1, max_size=4))
def test_a_mutated_offer_is_an_offer_or_refused_and_nothing_else(
    sdp: str, edits: list[tuple[str, int, int, str]]
) -> None:
    # given a real offer with lines lost, doubled, exchanged, cut short or spoilt
    lines = sdp.split("\r\n")
    for edit, first, second, text in edits:
        at, other = first % len(lines), second % len(lines)
        column = second % (len(lines[at]) + 1)
        if edit == "drop" and len(lines) > 1:
            del lines[at]
        elif edit == "double":
            lines.insert(other, lines[at])
        elif edit == "swap":
            lines[at], lines[other] = lines[other], lines[at]
        elif edit == "cut":
            lines[at] = lines[at][:column]
        else:
            lines[at] = lines[at][:column] + text + lines[at][column:]

    # then it is accepted with what a call needs, or refused
    with contextlib.suppress(OfferError):
        offer = check_offer("\r\n".join(lines))
        assert isinstance(offer, Offer)
        assert offer.ice_ufrag
        assert "opus" in offer.sdp.lower()
