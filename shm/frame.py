"""The frame a relay hands to a transceiver: many client datagrams in one message, each with its path."""

import struct
from collections.abc import Iterator

from voicerelay.shm.path import PATH_BYTES

MAX_DATAGRAM_BYTES = 2048  # no WebRTC datagram is near it; larger ones are dropped by the relay
MAX_FRAME_BYTES = 60_000  # below 64 kB, whatever the transport

_PREFIX = struct.Struct("<HBx")
ENTRY_HEADER_BYTES = _PREFIX.size + PATH_BYTES
# An entry header is its datagram's length and a tail that stays the same for a client.
ENTRY_LENGTHS = tuple(length.to_bytes(2, "little") for length in range(MAX_DATAGRAM_BYTES + 1))


class FrameError(ValueError):
    """A frame that no relay of this version writes."""


def entry_tail(relay: int, path: bytes) -> bytes:
    """What follows the length in an entry header."""
    return _PREFIX.pack(0, relay)[2:] + path


def entry_header(length: int, relay: int, path: bytes) -> bytes:
    """What stands before a datagram of `length` bytes that arrived on relay socket `relay`."""
    return _PREFIX.pack(length, relay) + path


def split_frame(frame: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield (relay socket index, path, datagram). Raises FrameError at the first bad byte."""
    size = len(frame)
    position = 0
    while position < size:
        start = position + ENTRY_HEADER_BYTES
        if start > size:
            raise FrameError("entry header cut short")
        length, relay = _PREFIX.unpack_from(frame, position)
        end = start + length
        if not 0 < length <= MAX_DATAGRAM_BYTES or end > size:
            raise FrameError("entry length")
        yield relay, frame[position + 4 : start], frame[start:end]
        position = end
