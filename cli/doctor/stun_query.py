"""Questions to a STUN server and its answers, as bytes: where our packets come from (RFC 8489, RFC 5780)."""

import ipaddress
import struct
from typing import NamedTuple

from voicerelay.shm import stun

CHANGE_REQUEST = 0x0003  # RFC 5780 §7.2
CHANGE_ADDRESS_AND_PORT, CHANGE_PORT = 0x06, 0x02
MAPPED_ADDRESS = 0x0001
OTHER_ADDRESS = 0x802C  # RFC 5780 §7.4
_ATTRIBUTE = struct.Struct("!HH")


class Reply(NamedTuple):
    """host, port as the server saw us; whether it can answer from another address."""

    host: str
    port: int
    has_other: bool


def query(transaction: bytes, change: int = 0) -> bytes:
    """A Binding request; `change`: answer from elsewhere (CHANGE_…)."""
    attributes = [(CHANGE_REQUEST, change.to_bytes(4, "big"))] if change else []
    return stun.build(stun.BINDING_REQUEST, transaction, attributes)


def read_reply(data: bytes, transaction: bytes) -> Reply | None:
    """None for what is not a success response to this transaction with an address in it."""
    try:
        message = stun.parse(data)
    except stun.StunError:
        return None
    if message.kind != stun.BINDING_SUCCESS or message.transaction != transaction:
        return None
    found: tuple[str, int] | None = None
    has_other = False
    position = stun.HEADER_BYTES
    while position < len(data):  # parse() has checked the lengths
        kind, length = _ATTRIBUTE.unpack_from(data, position)
        value = data[position + 4 : position + 4 + length]
        if kind == stun.XOR_MAPPED_ADDRESS:
            found = _address(value, stun.COOKIE + transaction) or found
        elif kind == MAPPED_ADDRESS and found is None:  # a server of RFC 3489
            found = _address(value, bytes(16))
        has_other = has_other or kind == OTHER_ADDRESS
        position += 4 + ((length + 3) & ~3)
    return Reply(*found, has_other) if found else None


def _address(value: bytes, mask: bytes) -> tuple[str, int] | None:
    """RFC 8489 §14.1, §14.2; `mask`: zeros where it is plain."""
    family, size = value[1:2], len(value) - 4
    if (family, size) not in ((b"\x01", 4), (b"\x02", 16)):
        return None
    port = int.from_bytes(value[2:4], "big") ^ int.from_bytes(mask[:2], "big")
    raw = bytes(a ^ b for a, b in zip(value[4:], mask, strict=False))
    return str(ipaddress.ip_address(raw)), port
