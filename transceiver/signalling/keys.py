"""Who may call: the API keys of a file, and short-lived tokens that one of them has signed. Pure."""

import base64
import binascii
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

MIN_KEY_CHARS, MAX_KEY_CHARS = 16, 256
MAX_KEYS = 1000
MAX_KEY_FILE_BYTES = 512 * 1024
MAX_TOKEN_CHARS = 1024
MAX_SUBJECT_CHARS = 128
MAX_CAP = 1000  # sessions at once, of those that count them
MAX_TTL_S = 30 * 24 * 3600
PREFIX = "vr1"
_KEY = re.compile(rf"[A-Za-z0-9._~+/=-]{{{MIN_KEY_CHARS},{MAX_KEY_CHARS}}}")  # RFC 6750 §2.1
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SUBJECT = re.compile(rf"[\x21-\x7e]{{0,{MAX_SUBJECT_CHARS}}}")


class KeyFileError(Exception):
    """A key file cannot be used; the message says which line, and never shows a key."""


class TokenError(Exception):
    """No token can be made of what was asked for."""


class Denied(Exception):
    """A credential is none of ours."""


@dataclass(frozen=True)
class Caller:
    """Whose request it is. key: the name of the key; all is empty where the server is open.

    subject: who the token was made for. max_sessions: its cap, 0 for none. token: tells tokens apart.
    denied: has none, on a server that wants one, and may see what is public. mark: which key it is
    that has the name now.
    """

    key: str = ""
    subject: str = ""
    max_sessions: int = 0
    token: str = ""
    expired: bool = False
    denied: bool = False
    mark: str = field(default="", compare=False)


class Keys:
    """Keys by name."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._keys = dict(keys)
        # Looked up by a digest that nobody else can compute: time tells nothing about a key.
        self._salt = secrets.token_bytes(16)
        self._names = {self._digest(key): name for name, key in keys.items()}

    @classmethod
    def parse(cls, text: str) -> "Keys":
        """One `key` or `name:key` a line, `#` for remarks. Raises KeyFileError."""
        found: dict[str, str] = {}
        for number, line in enumerate(text.splitlines(), 1):
            entry = line.strip()
            if not entry or entry.startswith("#"):
                continue
            name, colon, key = entry.rpartition(":")
            if not _KEY.fullmatch(key) or key.startswith(PREFIX + "."):
                raise KeyFileError(
                    f"line {number}: a key has {MIN_KEY_CHARS} to {MAX_KEY_CHARS} of A-Z a-z 0-9 . _ ~ + / = -"
                )
            if colon and not _NAME.fullmatch(name):
                raise KeyFileError(f"line {number}: a name has at most 64 of A-Z a-z 0-9 _ -")
            name = name or "key-" + hashlib.sha256(key.encode()).hexdigest()[:8]
            if name in found or key in found.values():
                raise KeyFileError(f"line {number}: name or key stand there twice")
            found[name] = key
        if not found:
            raise KeyFileError("there is no key in it")
        if len(found) > MAX_KEYS:
            raise KeyFileError(f"there are more than {MAX_KEYS} keys in it")
        return cls(found)

    @property
    def names(self) -> list[str]:
        return list(self._keys)

    def issue(
        self, now: float, ttl_s: int, key: str = "", subject: str = "", max_sessions: int = 0
    ) -> str:
        """A token. now: seconds since 1970. key: the name of the one that signs, else the first.

        Raises TokenError.
        """
        name = key or next(iter(self._keys))
        if name not in self._keys:
            raise TokenError(f'there is no key "{name}"')
        if not 1 <= ttl_s <= MAX_TTL_S:
            raise TokenError(f"a token is good for 1 s to {MAX_TTL_S // 86400} days")
        if not _SUBJECT.fullmatch(subject):
            raise TokenError(
                f"a subject has at most {MAX_SUBJECT_CHARS} ASCII characters, no blanks"
            )
        if not 0 <= max_sessions <= MAX_CAP:
            raise TokenError(f"a token has a cap of 1 to {MAX_CAP} sessions")
        claims: dict[str, object] = {"exp": int(now) + ttl_s, "id": secrets.token_urlsafe(9)}
        if subject:
            claims["sub"] = subject
        if max_sessions:
            claims["max"] = max_sessions
        payload = _encode(json.dumps(claims, separators=(",", ":")).encode())
        signed = f"{PREFIX}.{name}.{payload}"
        return f"{signed}.{_encode(self._sign(name, signed))}"

    def caller(self, credential: str, now: float) -> Caller:
        """Who this is; an expired token is told as such. Raises Denied."""
        if credential.startswith(PREFIX + "."):
            return self._bearer_of(credential, now)
        name = self._names.get(self._digest(credential))
        if name is None:
            raise Denied("there is no such key")
        return Caller(name, mark=_mark(credential))

    def still(self, caller: Caller) -> Caller:
        """The same, as long as there is the key that he calls for. Raises Denied."""
        key = self._keys.get(caller.key)
        if key is None or not hmac.compare_digest(caller.mark, _mark(key)):
            raise Denied("the key behind it is no more")
        return caller

    def _bearer_of(self, token: str, now: float) -> Caller:
        parts = token.split(".")
        if len(token) > MAX_TOKEN_CHARS or len(parts) != 4 or parts[1] not in self._keys:
            raise Denied("this is no token of ours")
        signed = token.rpartition(".")[0]
        if not hmac.compare_digest(_decode(parts[3]), self._sign(parts[1], signed)):
            raise Denied("this is no token of ours")
        claims = json.loads(_decode(parts[2]))  # we have written it
        return Caller(
            parts[1],
            claims.get("sub", ""),
            claims.get("max", 0),
            claims["id"],
            expired=now >= claims["exp"],
        )

    def _sign(self, name: str, text: str) -> bytes:
        return hmac.digest(self._keys[name].encode(), text.encode("utf-8", "replace"), "sha256")

    def _digest(self, key: str) -> bytes:
        return hashlib.blake2b(key.encode("utf-8", "replace"), key=self._salt).digest()


def _mark(key: str) -> str:
    """Tells a key from its successor of the same name; 64 bits, for what is sealed."""
    return hashlib.blake2b(key.encode(), digest_size=8, person=b"key mark").hexdigest()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b""
