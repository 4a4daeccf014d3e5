"""The server's ICE username fragment: 20 ice-chars that name node and transceiver slot and carry a keyed MAC."""

import base64
import hashlib
import hmac
import os
import struct
from typing import NamedTuple

UFRAG_BYTES = 20  # characters; RFC 8445 §5.3 asks for at least 4
PASSWORD_BYTES = 24  # characters of 6 bits: 144 bits, RFC 8445 §5.3 asks for at least 128
VERSION = 1
MAC_BYTES = 4
RANDOM_BYTES = 6
_BODY = struct.Struct("!BHH6s")


class Ufrag(NamedTuple):
    """What a ufrag says about its maker."""

    node: int
    slot: int


def make_ufrag(key: bytes, node: int, slot: int) -> bytes:
    """A fresh ufrag; only `A-Z a-z 0-9 + /` (RFC 8445 §5.3)."""
    body = _BODY.pack(VERSION, node, slot, os.urandom(RANDOM_BYTES))
    return base64.b64encode(body + _mac(key, body))


def verify_ufrag(key: bytes, ufrag: bytes) -> Ufrag | None:
    """Node and slot of a ufrag made under `key`; None for anything else."""
    if len(ufrag) != UFRAG_BYTES:
        return None
    try:
        raw = base64.b64decode(ufrag, validate=True)
    except ValueError:
        return None
    body, mac = raw[:-MAC_BYTES], raw[-MAC_BYTES:]
    if body[0] != VERSION or not hmac.compare_digest(mac, _mac(key, body)):
        return None
    _, node, slot, _ = _BODY.unpack(body)
    return Ufrag(node, slot)


def make_password() -> bytes:
    """A fresh ICE password of `PASSWORD_BYTES` ice-chars."""
    return base64.b64encode(os.urandom(PASSWORD_BYTES * 3 // 4))


def _mac(key: bytes, body: bytes) -> bytes:
    return hashlib.blake2s(body, key=key, digest_size=MAC_BYTES).digest()
