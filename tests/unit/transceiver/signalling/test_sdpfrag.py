"""Trickle and restart fragments (RFC 8840): what is read, what is refused, what we answer."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicerelay.transceiver.signalling.sdpfrag import (
    MAX_FRAGMENT_BYTES,
    Fragment,
    FragmentError,
    build_fragment,
    parse_fragment,
)

UFRAG, PASSWORD = "EsAw", "P2uYro0UCOQ4zxjKXaWCBui1"
TRICKLE = f"""a=group:BUNDLE 0
m=audio 9 UDP/TLS/RTP/SAVPF 111
a=mid:0
a=ice-ufrag:{UFRAG}
a=ice-pwd:{PASSWORD}
a=candidate:1 1 udp 2130706431 6fb0e1ac-f1a6-4e5e-9c4a-3d5d1b7e1f0a.local 50000 typ host
a=candidate:2 1 udp 1694498815 198.51.100.7 50001 typ srflx raddr 0.0.0.0 rport 0
a=end-of-candidates
"""
LINES = st.sampled_from(
    f"a=ice-ufrag:abcd|a=ice-ufrag:|a=ice-pwd:{PASSWORD}|a=ice-pwd:short|a=mid:audio|a=mid:|"
    "a=candidate:|a=|m=audio||=|x|a=candidate:1 1 udp 1 ::1 9".split("|")
)


def test_a_browsers_fragment_is_read_and_its_candidates_only_counted() -> None:
    assert parse_fragment(TRICKLE) == Fragment(UFRAG, PASSWORD, "0", 2)
    assert parse_fragment(TRICKLE.replace("\n", "\r\n")) == Fragment(UFRAG, PASSWORD, "0", 2)


def test_a_fragment_without_credentials_is_no_error() -> None:
    assert parse_fragment("a=end-of-candidates\r\n") == Fragment(None, None, "0", 0)
    assert parse_fragment("") == Fragment(None, None, "0", 0)


def test_the_first_mid_counts() -> None:
    assert parse_fragment("a=mid:audio\na=mid:data\n").mid == "audio"


@pytest.mark.parametrize(
    "line",
    [
        "a=ice-ufrag:abc",  # 4 to 256 characters, RFC 8839 §5.4
        "a=ice-ufrag:" + "a" * 257,
        "a=ice-ufrag:ab cd",
        "a=ice-ufrag:abcd\x00",
        "a=ice-pwd:" + "a" * 21,
        "a=ice-pwd:" + "a" * 257,
        "a=ice-pwd:" + "ä" * 24,
        "a=mid:",
        "a=mid:" + "m" * 65,
        "garbage",
        "a",
    ],
)
def test_a_bad_line_is_refused(line: str) -> None:
    with pytest.raises(FragmentError):
        parse_fragment("a=mid:0\n" * ("mid" not in line) + line + "\n")


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.text(max_size=200), st.lists(LINES).map("\n".join)))
def test_any_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    with contextlib.suppress(FragmentError):
        fragment = parse_fragment(text)
        assert fragment.candidates <= len(text)


def test_our_fragment_after_a_restart_reads_back_with_every_candidate() -> None:
    candidates = [("192.0.2.1", 3478), ("2001:db8::1", 3478)]

    text = build_fragment("0", UFRAG, PASSWORD, candidates, 2130706431)

    assert parse_fragment(text) == Fragment(UFRAG, PASSWORD, "0", 2)
    assert text.startswith("a=ice-lite\r\n")
    assert text.endswith("a=end-of-candidates\r\n")
    assert "a=candidate:1 1 udp 2130706431 192.0.2.1 3478 typ host\r\n" in text
    assert "a=candidate:2 1 udp 2130706175 2001:db8::1 3478 typ host\r\n" in text
    assert len(text) <= MAX_FRAGMENT_BYTES
