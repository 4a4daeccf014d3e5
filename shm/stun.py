"""Strict STUN reading (RFC 8489 §5, §14), shared so that relay and ICE agent read one message alike."""

import binascii
import hmac
import struct
from dataclasses import dataclass

HEADER_BYTES = 20
COOKIE = b"\x21\x12\xa4\x42"
BINDING_REQUEST = 0x0001
BINDING_INDICATION = 0x0011
BINDING_SUCCESS = 0x0101
BINDING_ERROR = 0x0111

USERNAME = 0x0006
MESSAGE_INTEGRITY = 0x0008
ERROR_CODE = 0x0009
UNKNOWN_ATTRIBUTES = 0x000A
MESSAGE_INTEGRITY_SHA256 = 0x001C
XOR_MAPPED_ADDRESS = 0x0020
PRIORITY = 0x0024
USE_CANDIDATE = 0x0025
FINGERPRINT = 0x8028
ICE_CONTROLLED = 0x8029
ICE_CONTROLLING = 0x802A

MAX_USERNAME_BYTES = 513  # RFC 8489 §14.3
MAX_UNKNOWN_ATTRIBUTES = 16  # how many a 420 answer names at most
_FINGERPRINT_XOR = 0x5354554E
_UNDERSTOOD = frozenset(
    (USERNAME, MESSAGE_INTEGRITY, MESSAGE_INTEGRITY_SHA256, PRIORITY, USE_CANDIDATE)
)
_ATTRIBUTE = struct.Struct("!HH")
_HEADER = struct.Struct("!HH4s12s")
_U32 = struct.Struct("!I")


class StunError(ValueError):
    """The peer's message breaks RFC 8489; it is dropped and counted, never answered."""


def server_ufrag(data: bytes) -> bytes | None:
    """Our ufrag in a Binding request's first USERNAME ("ours:theirs"), or None.

    The cheap look of a relay: walks only to the first USERNAME, verifies nothing.
    """
    size = len(data)
    if data[:2] != b"\x00\x01" or data[4:8] != COOKIE or size & 3:
        return None
    if size < HEADER_BYTES or int.from_bytes(data[2:4], "big") != size - HEADER_BYTES:
        return None
    position = HEADER_BYTES
    while position + 4 <= size:
        kind, length = _ATTRIBUTE.unpack_from(data, position)
        position += 4
        if kind == USERNAME:
            if length > MAX_USERNAME_BYTES or position + length > size:
                return None
            ufrag, colon, _ = data[position : position + length].partition(b":")
            return ufrag if colon else None
        if kind == MESSAGE_INTEGRITY:
            return None  # what follows it is not covered, so it does not count (§14.5)
        position += (length + 3) & ~3
    return None


@dataclass(slots=True)
class Message:
    """One STUN message, attributes that matter to ICE only; `integrity_at` is a byte offset."""

    kind: int
    transaction: bytes
    username: bytes | None = None
    integrity: bytes | None = None
    integrity_at: int = 0
    fingerprint: bool = False
    use_candidate: bool = False
    controlled: bool = False
    unknown: tuple[int, ...] = ()


def parse(data: bytes) -> Message:
    """Read a whole message. Raises StunError, and nothing else, for what is not one."""
    size = len(data)
    if size < HEADER_BYTES or size & 3:
        raise StunError("length")
    kind, length, cookie, transaction = _HEADER.unpack_from(data)
    if kind & 0xC000 or cookie != COOKIE or length != size - HEADER_BYTES:
        raise StunError("header")
    message = Message(kind, transaction)
    position = HEADER_BYTES
    while position < size:
        attribute, length = _ATTRIBUTE.unpack_from(data, position)
        value_at = position + 4
        following = value_at + ((length + 3) & ~3)
        if following > size:
            raise StunError("attribute length")
        _take(message, attribute, data, position, value_at, length)
        position = following
    return message


def _take(
    message: Message, attribute: int, data: bytes, position: int, value_at: int, length: int
) -> None:
    if attribute == FINGERPRINT:
        if length != 4 or value_at + 4 != len(data):
            raise StunError("fingerprint is not last")
        if _U32.unpack_from(data, value_at)[0] != fingerprint(data[:position]):
            raise StunError("fingerprint")
        message.fingerprint = True
    elif message.integrity is not None:
        pass  # RFC 8489 §14.5: after MESSAGE-INTEGRITY only FINGERPRINT counts
    elif attribute == USERNAME:
        if length > MAX_USERNAME_BYTES:
            raise StunError("username length")
        if message.username is None:  # §14: the first counts
            message.username = data[value_at : value_at + length]
    elif attribute == MESSAGE_INTEGRITY:
        if length != 20:
            raise StunError("integrity length")
        message.integrity = data[value_at : value_at + 20]
        message.integrity_at = position
    elif attribute == USE_CANDIDATE:
        message.use_candidate = True
    elif attribute == ICE_CONTROLLED:
        message.controlled = True
    elif attribute >= 0x8000 or attribute in _UNDERSTOOD:
        pass  # comprehension-optional, or nothing to keep
    elif len(message.unknown) < MAX_UNKNOWN_ATTRIBUTES:
        message.unknown += (attribute,)


def integrity_holds(data: bytes, message: Message, key: bytes) -> bool:
    """MESSAGE-INTEGRITY of a parsed message under `key`, compared in constant time (§14.5)."""
    if message.integrity is None:
        return False
    # The length field counts up to the end of MESSAGE-INTEGRITY: offset + 24 - header.
    length = (message.integrity_at + 4).to_bytes(2, "big")
    signed = data[:2] + length + data[4 : message.integrity_at]
    return hmac.compare_digest(hmac.digest(key, signed, "sha1"), message.integrity)


def fingerprint(prefix: bytes) -> int:
    """FINGERPRINT value over the bytes before it (§14.7)."""
    return binascii.crc32(prefix) ^ _FINGERPRINT_XOR


def build(
    kind: int,
    transaction: bytes,
    attributes: list[tuple[int, bytes]],
    key: bytes | None = None,
    with_fingerprint: bool = True,
) -> bytes:
    """A message with MESSAGE-INTEGRITY under `key` (None: without) and FINGERPRINT."""
    body = b"".join(
        _ATTRIBUTE.pack(attribute, len(value)) + value + bytes(-len(value) % 4)
        for attribute, value in attributes
    )
    if key is not None:
        head = _HEADER.pack(kind, len(body) + 24, COOKIE, transaction)
        body += _ATTRIBUTE.pack(MESSAGE_INTEGRITY, 20) + hmac.digest(key, head + body, "sha1")
    if not with_fingerprint:
        return _HEADER.pack(kind, len(body), COOKIE, transaction) + body
    prefix = _HEADER.pack(kind, len(body) + 8, COOKIE, transaction) + body
    return prefix + _ATTRIBUTE.pack(FINGERPRINT, 4) + _U32.pack(fingerprint(prefix))


def xor_address(port: int, address: bytes, transaction: bytes) -> bytes:
    """XOR-MAPPED-ADDRESS value of a 4- or 16-byte address (§14.2)."""
    mask = (COOKIE + transaction)[: len(address)]
    family = 1 if len(address) == 4 else 2
    return struct.pack("!BBH", 0, family, port ^ 0x2112) + bytes(
        a ^ b for a, b in zip(address, mask, strict=True)
    )
