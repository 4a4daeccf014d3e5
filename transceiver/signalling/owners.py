"""Who owns a call by the names that its framework gives it: Pipecat's pc_id, FastRTC's webrtc_id.

The names stand in the route table, as keys that no ufrag can be: so control voids them with their
transceiver and gets them replayed like routes, and any transceiver finds the owner without asking.
"""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from voicerelay.shm.table import KEY_BYTES, TableReader

NAMES = ("pc_id", "webrtc_id")
MAX_NAME_CHARS = 256
_MARK, _PLACE_MARK = b"@", b"#"  # not ice-chars
_DIGEST_BYTES = (KEY_BYTES - 1) * 3 // 4


def owner_key(name: str) -> bytes:
    """The name's key in the route table, 20 bytes."""
    return _key(_MARK, name)


def place_key(who: str, index: int) -> bytes:
    """The key of one of the places that a caller has, 20 bytes."""
    return _key(_PLACE_MARK, f"{index} {who}")


def _key(mark: bytes, text: str) -> bytes:
    digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=_DIGEST_BYTES).digest()
    return mark + base64.urlsafe_b64encode(digest).rstrip(b"=")


@dataclass(frozen=True)
class Mentioned:
    """What a request or an answer says about calls: their keys, and whether it offers a new one."""

    keys: frozenset[bytes] = field(default_factory=frozenset)
    offers: bool = False


def mentioned(body: bytes, query: bytes = b"") -> Mentioned:
    """Read a JSON body and a query string; anything that is not such mentions nothing."""
    try:
        parsed: Any = json.loads(body) if body[:1].isspace() or body[:1] == b"{" else None
    except (ValueError, RecursionError):
        parsed = None
    content = parsed if isinstance(parsed, dict) else {}
    names = [content.get(name) for name in NAMES]
    names += [value for name, value in _parameters(query) if name in NAMES]
    return Mentioned(
        frozenset(
            owner_key(n) for n in names if isinstance(n, str) and 0 < len(n) <= MAX_NAME_CHARS
        ),
        content.get("type") == "offer" and isinstance(content.get("sdp"), str),
    )


def find_owner(routes: TableReader, keys: frozenset[bytes]) -> int | None:
    """The slot that owns a call with one of these keys."""
    for key in keys:
        entry = routes.find(key)
        if entry is not None:
            return entry.slot
    return None


def _parameters(query: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query.decode("ascii"), max_num_fields=100)
    except ValueError:
        return []
