"""STUN and TURN servers that clients are told of, for networks that let no UDP through."""

import base64
import hmac
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_SERVERS = 16
MAX_FILE_BYTES = 64 * 1024
CREDENTIAL_TTL_S = 12 * 3600
_URL = re.compile(
    r"(?:stuns?:[A-Za-z0-9.\[\]:_-]{1,260}"  # RFC 7064
    r"|turns?:[A-Za-z0-9.\[\]:_-]{1,260}(?:\?transport=(?:udp|tcp))?)"  # RFC 7065
)
_WORD = re.compile(r"[\x20-\x7e]{1,256}")
_KNOWN = {"urls", "username", "credential", "secret"}


class IceServersError(Exception):
    """The file cannot be used; the message says why, and never shows a credential."""


@dataclass(frozen=True)
class IceServer:
    """As in a browser's RTCIceServer; `secret` makes credentials that expire (TURN REST, coturn)."""

    urls: tuple[str, ...]
    username: str = ""
    credential: str = ""
    secret: str = ""

    def configuration(self, user: str, now: float) -> dict[str, Any]:
        """An RTCIceServer. user: whom the server's log shall name. now: seconds since 1970."""
        if not self.username and not self.secret:
            return {"urls": list(self.urls)}
        username, credential = self.username, self.credential
        if self.secret:
            username = f"{int(now) + CREDENTIAL_TTL_S}:{user}"
            digest = hmac.digest(self.secret.encode(), username.encode(), "sha1")
            credential = base64.b64encode(digest).decode()
        return {"urls": list(self.urls), "username": username, "credential": credential}


def parse_ice_servers(text: str) -> list[IceServer]:
    """A JSON list of RTCIceServer, or an object with it as `iceServers`. Raises IceServersError."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise IceServersError("is not JSON") from None
    if isinstance(found, dict):
        found = found.get("iceServers")
    if not isinstance(found, list) or not 1 <= len(found) <= MAX_SERVERS:
        raise IceServersError(f"has no list of 1 to {MAX_SERVERS} servers")
    return [_server(number, entry) for number, entry in enumerate(found, 1)]


def read_ice_servers(path: str) -> list[IceServer]:
    """The servers of a file. Raises IceServersError."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise IceServersError(f"cannot be read: {exc.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise IceServersError(f"has more than {MAX_FILE_BYTES} bytes")
    try:
        return parse_ice_servers(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise IceServersError("is not text (UTF-8)") from None


def _server(number: int, entry: Any) -> IceServer:
    if not isinstance(entry, dict) or not set(entry) <= _KNOWN:
        raise IceServersError(f"server {number} is no object of {', '.join(sorted(_KNOWN))}")
    urls = entry.get("urls")
    urls = [urls] if isinstance(urls, str) else urls
    if not isinstance(urls, list) or not 1 <= len(urls) <= MAX_SERVERS:
        raise IceServersError(f"server {number} has no urls")
    if not all(isinstance(url, str) and _URL.fullmatch(url) for url in urls):
        raise IceServersError(
            f"server {number}: a url is not stun:, stuns:, turn: or turns:HOST:PORT"
        )
    words = {name: entry[name] for name in ("username", "credential", "secret") if name in entry}
    if not all(isinstance(word, str) and _WORD.fullmatch(word) for word in words.values()):
        raise IceServersError(f"server {number}: a credential has 1 to 256 ASCII characters")
    if set(words) not in ({"username", "credential"}, {"secret"}) and (
        words or any(url.startswith("turn") for url in urls)
    ):
        raise IceServersError(f"server {number} needs username and credential, or secret")
    return IceServer(tuple(urls), **words)


def link_header(servers: Sequence[dict[str, Any]]) -> str:
    """RFC 9725 §4.6: each URL of each RTCIceServer, in one Link header; empty without servers."""
    links = []
    for server in servers:
        parameters = 'rel="ice-server"'
        if "username" in server:
            parameters += (
                f"; username={_quoted(server['username'])}"
                f'; credential={_quoted(server["credential"])}; credential-type="password"'
            )
        links += [f"<{url}>; {parameters}" for url in server["urls"]]
    return ", ".join(links)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
