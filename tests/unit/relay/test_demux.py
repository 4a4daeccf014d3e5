"""Every datagram has exactly one kind, by its first byte (RFC 7983 §7, RFC 9443 §3)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicerelay.relay.demux import KINDS, Kind, classify

# RFC 7983 §7 with RFC 9443 §3: first byte (both ends included) -> protocol.
RANGES = [
    (0, 3, Kind.STUN),
    (4, 15, Kind.OTHER),  # unassigned
    (16, 19, Kind.OTHER),  # ZRTP
    (20, 63, Kind.DTLS),
    (64, 79, Kind.OTHER),  # TURN channels; 64-127 also QUIC
    (80, 127, Kind.OTHER),  # QUIC
    (128, 191, Kind.RTP),
    (192, 255, Kind.OTHER),  # QUIC
]


def test_the_ranges_cover_every_first_byte_once() -> None:
    covered = [byte for first, last, _ in RANGES for byte in range(first, last + 1)]

    assert covered == list(range(256))


@pytest.mark.parametrize(("first", "last", "kind"), RANGES)
def test_a_first_byte_tells_the_protocol_whatever_the_length(
    first: int, last: int, kind: Kind
) -> None:
    for byte in range(first, last + 1):
        found = {classify(bytes((byte,)) * length) for length in range(1, 65)}

        assert found == {kind}, byte


def test_an_empty_datagram_is_nothing_we_speak() -> None:
    assert classify(b"") is Kind.OTHER


@settings(deadline=None)
@given(st.binary(max_size=64))
def test_what_follows_the_first_byte_never_matters(datagram: bytes) -> None:
    assert classify(datagram) is (KINDS[datagram[0]] if datagram else Kind.OTHER)
