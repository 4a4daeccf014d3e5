"""The offer that servers take, and answers: read where they make a call, refused by one error else."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicerelay.cli.loadtest.sdp import (
    MAX_ANSWER_BYTES,
    MAX_CANDIDATES,
    Address,
    SdpError,
    offer,
    parse_answer,
)
from voicerelay.transceiver.signalling.offer import check_offer

ANSWER = """v=0
o=- 1 1 IN IP4 127.0.0.1
s=-
t=0 0
a=group:BUNDLE 0
a=fingerprint:sha-256 AB:CD
m=audio 3478 UDP/TLS/RTP/SAVPF 96
c=IN IP4 127.0.0.1
a=ice-ufrag:abcd
a=ice-pwd:0123456789012345678901
a=candidate:1 1 udp 2130706431 127.0.0.1 3478 typ host
a=candidate:2 1 tcp 1 127.0.0.1 9 typ host tcptype active
a=candidate:3 1 udp 1 name.local 5 typ host
a=candidate:4 2 udp 1 127.0.0.1 5 typ host
a=candidate:5 1 UDP 1 2001:db8::1 5000 typ host generation 0
a=setup:active
a=rtpmap:96 opus/48000/2
"""


def test_the_offer_is_one_that_this_server_takes() -> None:
    text = offer("ufrag", "p" * 22, "AB:CD", 77, Address("127.0.0.3", 5000))

    checked = check_offer(text)

    assert checked.ice_ufrag == "ufrag"
    assert "a=candidate:1 1 udp 2113937151 127.0.0.3 5000 typ host\r\n" in text


def test_an_answer_is_read_with_what_stands_at_the_session() -> None:
    answer = parse_answer(ANSWER)

    assert (answer.ufrag, answer.password) == ("abcd", "0123456789012345678901")
    assert answer.fingerprints == (("sha-256", "AB:CD"),)
    assert answer.candidates == (Address("127.0.0.1", 3478), Address("2001:db8::1", 5000))
    assert (answer.active, answer.payload_type) == (True, 96)


@pytest.mark.parametrize(
    ("line", "instead", "why"),
    [
        ("v=0", "v=1", "no SDP"),
        ("m=audio 3478", "m=audio 0", "declines"),
        ("m=audio", "m=video", "declines"),
        ("a=ice-pwd", "a=no-pwd", "lacks"),
        ("a=fingerprint:sha-256 AB:CD", "a=fingerprint:", "lacks"),
        ("opus/48000", "PCMU/8000", "no Opus"),
        ("rtpmap:96", "rtpmap:128", "no Opus"),
        ("a=candidate", "a=nothing", "no UDP candidate"),
    ],
)
def test_what_makes_no_call_is_refused(line: str, instead: str, why: str) -> None:
    with pytest.raises(SdpError, match=why):
        parse_answer(ANSWER.replace(line, instead))


def test_candidates_and_length_are_bounded() -> None:
    line = "a=candidate:1 1 udp 2130706431 127.0.0.1 3478 typ host\n"

    assert len(parse_answer(ANSWER + line * 50).candidates) == MAX_CANDIDATES
    with pytest.raises(SdpError):
        parse_answer(ANSWER + line * (MAX_ANSWER_BYTES // len(line)))


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for whole in (text, "v=0\n" + text, ANSWER + text, ANSWER.replace("1 1 udp", "1 " + text)):
        with contextlib.suppress(SdpError):
            parse_answer(whole)
