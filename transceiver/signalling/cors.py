"""Which web pages may call from elsewhere (Fetch Standard §3.2), and what their browsers are told. Pure."""

import ipaddress
import re
from collections.abc import Mapping, Sequence

ANY = "*"
_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]{0,31})://"
    r"(?P<host>[a-z0-9._-]{1,253}|\[[0-9a-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?"
)
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST, PATCH, DELETE, OPTIONS",
    # Released WHIP clients name the ETag in a header of that name too.
    "Access-Control-Allow-Headers": "authorization, content-type, etag, if-match, x-openai-agents-sdk",
    "Access-Control-Max-Age": "600",
}
_EXPOSED = {"Access-Control-Expose-Headers": "Location, ETag, Link, Retry-After, WWW-Authenticate"}


def parse_origin(text: str) -> str:
    """The origin as browsers write it, or "*". Raises ValueError."""
    match = _ORIGIN.fullmatch(text.lower())
    if text == ANY:
        return text
    if match is None or int(match["port"] or 0) > 65535:
        raise ValueError(f'"{text}" is no origin, such as https://example.org')
    plain = match["port"] in (None, _DEFAULT_PORTS.get(match["scheme"]))
    return f"{match['scheme']}://{match['host']}" + ("" if plain else f":{match['port']}")


def is_loopback(host: str) -> bool:
    """Whether a name or address means this very machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def host_of(header: str) -> str:
    """The host in a Host header, without its port."""
    host, colon, port = header.rpartition(":")
    return host if colon and port.isdigit() else header


class Origins:
    """The origins that may; without any, those of this machine, such as a developer's server."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = frozenset(allowed)

    def allow(self, origin: str) -> bool:
        if self._allowed:
            return ANY in self._allowed or origin.lower() in self._allowed
        match = _ORIGIN.fullmatch(origin.lower())
        return match is not None and is_loopback(match["host"])


def from_elsewhere(headers: Mapping[str, str]) -> str:
    """The origin of a page that is not ours; empty for our own, and for what is no browser."""
    origin = headers.get("Origin", "")
    if headers.get("Sec-Fetch-Site") == "same-origin":  # a proxy may have changed Host
        return ""
    return "" if origin.partition("://")[2] == headers.get("Host") else origin


def cors_headers(origin: str, preflight: bool) -> dict[str, str]:
    """What an allowed page's browser wants to read."""
    headers = {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
    return headers | (_PREFLIGHT if preflight else _EXPOSED)
