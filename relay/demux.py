"""What a datagram is, by its first byte (RFC 7983 §7, RFC 9443 §3). Total: every datagram has one kind."""

from enum import IntEnum


class Kind(IntEnum):
    """The protocols that share a WebRTC port, and what is none of them."""

    OTHER = 0  # ZRTP, TURN channels, QUIC and unassigned ranges: nobody here speaks them
    STUN = 1
    DTLS = 2
    RTP = 3  # SRTP or SRTCP


def _kind_of(first_byte: int) -> Kind:
    if first_byte <= 3:
        return Kind.STUN
    if 20 <= first_byte <= 63:
        return Kind.DTLS
    if 128 <= first_byte <= 191:
        return Kind.RTP
    return Kind.OTHER


KINDS: tuple[Kind, ...] = tuple(_kind_of(byte) for byte in range(256))


def classify(datagram: bytes) -> Kind:
    """Kind of a datagram; an empty one is OTHER."""
    return KINDS[datagram[0]] if datagram else Kind.OTHER
