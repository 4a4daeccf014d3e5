"""The offer of a caller, and what it needs from an answer (RFC 8829). Pure; the reader is total."""

import ipaddress
import re
from dataclasses import dataclass
from typing import NamedTuple

OPUS = 111
CNAME = "loadtest"
MAX_ANSWER_BYTES = 64 * 1024
MAX_CANDIDATES = 8  # further ones are not checked
_RTPMAP = re.compile(r"a=rtpmap:([0-9]{1,3}) opus/48000(?:/2)?", re.IGNORECASE)

_OFFER = """v=0
o=- {session} 2 IN IP4 127.0.0.1
s=-
t=0 0
a=group:BUNDLE 0
a=msid-semantic: WMS loadtest
m=audio 9 UDP/TLS/RTP/SAVPF 111
c=IN IP4 0.0.0.0
a=rtcp:9 IN IP4 0.0.0.0
a=ice-ufrag:{ufrag}
a=ice-pwd:{password}
{candidate}
a=end-of-candidates
a=fingerprint:sha-256 {fingerprint}
a=setup:actpass
a=mid:0
a=sendrecv
a=msid:loadtest audio
a=rtcp-mux
a=rtpmap:111 opus/48000/2
a=fmtp:111 minptime=10;useinbandfec=1
a=ssrc:{ssrc} cname:loadtest
a=ssrc:{ssrc} msid:loadtest audio
"""


class SdpError(ValueError):
    """The server's answer makes no call; the text says why."""


class Address(NamedTuple):
    host: str
    port: int


@dataclass(frozen=True)
class Answer:
    """fingerprints: (algorithm, value). active: the server begins DTLS."""

    ufrag: str
    password: str
    fingerprints: tuple[tuple[str, str], ...]
    active: bool
    candidates: tuple[Address, ...]
    payload_type: int


def offer(ufrag: str, password: str, fingerprint: str, ssrc: int, local: Address) -> str:
    """One audio section, Opus only, with one host candidate."""
    candidate = f"a=candidate:1 1 udp 2113937151 {local.host} {local.port} typ host"
    text = _OFFER.format(
        session=ssrc + (1 << 40),
        ufrag=ufrag,
        password=password,
        candidate=candidate,
        fingerprint=fingerprint,
        ssrc=ssrc,
    )
    return text.replace("\n", "\r\n")


def parse_answer(text: str) -> Answer:
    """Raises SdpError, and nothing else."""
    if not text.startswith("v=0") or len(text) > MAX_ANSWER_BYTES:
        raise SdpError("the answer is no SDP")
    sections: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.startswith("m="):
            sections.append([])
        sections[-1].append(line.strip())
    audio = next((s for s in sections[1:] if s[0].startswith("m=audio ")), None)
    if audio is None or audio[0].startswith("m=audio 0 "):
        raise SdpError("the answer declines audio")
    lines = audio + sections[0]  # what a section does not say, the session says (RFC 8866 §5)
    fingerprints = tuple(
        (algorithm, value)
        for algorithm, _, value in (found.partition(" ") for found in _values(lines, "fingerprint"))
        if value
    )
    ufrag, password = _first(lines, "ice-ufrag"), _first(lines, "ice-pwd")
    if not ufrag or not password or not fingerprints:
        raise SdpError("the answer lacks ICE credentials or a fingerprint")
    payload = next((found[1] for line in audio if (found := _RTPMAP.fullmatch(line))), None)
    if payload is None or int(payload) > 127:
        raise SdpError("the answer has no Opus")
    candidates = tuple(
        address for value in _values(audio, "candidate") if (address := _udp_address(value))
    )
    if not candidates:
        raise SdpError("the answer has no UDP candidate (trickle of the server's is not read)")
    active = _first(lines, "setup") == "active"
    return Answer(ufrag, password, fingerprints, active, candidates[:MAX_CANDIDATES], int(payload))


def _values(lines: list[str], name: str) -> list[str]:
    prefix = f"a={name}:"
    return [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]


def _first(lines: list[str], name: str) -> str:
    return next(iter(_values(lines, name)), "")


def _udp_address(candidate: str) -> Address | None:
    """Of the RTP component (RFC 8839 §5.1); names, such as mDNS ones, are passed over."""
    fields = candidate.split()
    if len(fields) < 8 or fields[1] != "1" or fields[2].lower() != "udp":
        return None
    try:
        host, port = str(ipaddress.ip_address(fields[4])), int(fields[5])
    except ValueError:
        return None
    return Address(host, port) if 0 < port < 65536 else None
