"""Ephemeral client secrets (`ek_…`): a session's configuration and an expiry, sealed with the cluster's key.

Nothing is stored: any transceiver that has the key can check a secret that another one issued.
"""

import base64
import binascii
import hashlib
import json
import secrets
import struct
import zlib
from typing import Any, Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

PREFIX: Final = "ek_"
MIN_LIFETIME_S: Final = 10
MAX_LIFETIME_S: Final = 7200
DEFAULT_LIFETIME_S: Final = 600
MAX_SECRET_CHARS: Final = 6000  # it travels in a header, and servers take lines of about 8 kB
MAX_SEALED_BYTES: Final = 128 * 1024  # of what is in it, unpacked
_NONCE_BYTES: Final = 12
_EXPIRY = struct.Struct("!Q")  # Unix time in whole seconds
_PURPOSE: Final = b"voicerelay ek"


class SecretTooLong(ValueError):
    """The session's configuration does not fit into a secret."""


class Secret(NamedTuple):
    """What is in one. owner: whose key it was issued for, as the issuer names it; mark: which key."""

    session: dict[str, Any]
    owner: str
    mark: str


def issue(
    cluster_key: bytes, session: dict[str, Any], expires_at: int, owner: str = "", mark: str = ""
) -> str:
    """A secret for one session configuration, valid before `expires_at` (Unix time).

    Raises SecretTooLong.
    """
    nonce = secrets.token_bytes(_NONCE_BYTES)
    plain = _EXPIRY.pack(expires_at) + zlib.compress(json.dumps([session, owner, mark]).encode(), 9)
    sealed = nonce + _cipher(cluster_key).encrypt(nonce, plain, _PURPOSE)
    value = PREFIX + base64.urlsafe_b64encode(sealed).decode().rstrip("=")
    if len(value) > MAX_SECRET_CHARS:
        raise SecretTooLong("the session is too long for a secret; send it with the call instead")
    return value


def read(cluster_key: bytes, value: str, now: float) -> Secret | None:
    """What is in a secret; None when it is none of ours or has expired at `now`."""
    if not value.startswith(PREFIX) or len(value) > MAX_SECRET_CHARS:
        return None
    text = value[len(PREFIX) :]
    try:
        sealed = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
        nonce, sealed = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        plain = _cipher(cluster_key).decrypt(nonce, sealed, _PURPOSE)
        # What follows was sealed by us; the limit is for a key that somebody has stolen.
        unpacked = zlib.decompressobj().decompress(plain[_EXPIRY.size :], MAX_SEALED_BYTES)
        session, owner, mark = json.loads(unpacked)
    except (binascii.Error, ValueError, InvalidTag, zlib.error):
        return None
    if now >= _EXPIRY.unpack_from(plain)[0]:
        return None
    return Secret(session, owner, mark)


def _cipher(cluster_key: bytes) -> AESGCM:
    """Its key is for this purpose only: ufrags are made with the cluster's key itself."""
    return AESGCM(hashlib.blake2b(_PURPOSE, key=cluster_key[:64], digest_size=32).digest())
