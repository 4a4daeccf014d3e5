"""How each contract asks for a call, reads the answer and ends the call: HTTP messages, no HTTP. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urljoin, urlsplit, urlunsplit

SDP = "application/sdp"
JSON = "application/json"


class Declined(Exception):
    """The server makes no call of the offer. `reason`: short and the same for the same cause."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Ask:
    """One HTTP request."""

    method: str
    url: str
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Opened:
    """The answer, and how to say goodbye by HTTP; None: DTLS says it."""

    sdp: str
    goodbye: Ask | None


PATHS: Final = {
    "whip": "/whip",
    "realtime": "/v1/realtime/calls",
    "pipecat": "/api/offer",
    "fastrtc": "/webrtc/offer",
}


def endpoint(contract: str, url: str) -> str:
    """A URL without a path gets the contract's own; any other is taken as it is."""
    parts = urlsplit(url)
    return url if parts.path.strip("/") else urlunsplit(parts._replace(path=PATHS[contract]))


def ask(contract: str, url: str, sdp: str, name: str) -> Ask:
    """Offer a call. name: of the call, unique (FastRTC's clients choose it)."""
    if contract in ("whip", "realtime"):
        return Ask("POST", url, sdp, {"Content-Type": SDP})
    body = {"sdp": sdp, "type": "offer"}
    if contract == "fastrtc":
        body["webrtc_id"] = name
    return Ask("POST", url, json.dumps(body), {"Content-Type": JSON})


def opened(contract: str, url: str, status: int, location: str, body: str) -> Opened:
    """What an answer means. Raises Declined."""
    if status not in (200, 201):
        raise Declined(f"HTTP {status}{_code_in(body)}")
    if contract in ("whip", "realtime"):
        if not location:
            raise Declined("the answer has no Location")
        resource = urljoin(url, location)
        if urlsplit(resource)[:2] != urlsplit(url)[:2]:  # the key goes to no other host
            raise Declined("the answer's Location is on another host")
        whip = contract == "whip"
        return Opened(body, Ask("DELETE", resource) if whip else Ask("POST", resource + "/hangup"))
    told = _object_in(body)
    sdp = told.get("sdp")
    if not isinstance(sdp, str):
        meta = told.get("meta")
        error = meta.get("error") if isinstance(meta, dict) else None
        raise Declined(f"refused: {error}"[:80] if error else "the answer has no SDP")
    return Opened(sdp, None)


def _code_in(body: str) -> str:
    """The stable code that this server's refusals have."""
    error = _object_in(body).get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return f" {code}"[:60] if isinstance(code, str) else ""


def _object_in(text: str) -> dict[str, object]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
