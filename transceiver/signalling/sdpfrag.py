"""Trickle and ICE-restart fragments (RFC 8840, RFC 9725 §4.3)."""

import re
from dataclasses import dataclass

MAX_FRAGMENT_BYTES = 16 * 1024
_UFRAG = re.compile(r"a=ice-ufrag:([A-Za-z0-9+/]{4,256})")
_PASSWORD = re.compile(r"a=ice-pwd:([A-Za-z0-9+/]{22,256})")
_MID = re.compile(r"a=mid:([^\s]{1,64})")


class FragmentError(ValueError):
    """The fragment breaks RFC 8840."""


@dataclass(frozen=True)
class Fragment:
    """A client's fragment; its candidates are never contacted, so only their count is kept."""

    ufrag: str | None
    password: str | None
    mid: str
    candidates: int


def parse_fragment(text: str) -> Fragment:
    """Read a fragment. Raises FragmentError, and nothing else."""
    ufrag = password = None
    mid = "0"
    candidates = 0
    for raw in text.splitlines():
        line = raw.strip()
        if not line:
            continue
        if len(line) < 2 or line[1] != "=":
            raise FragmentError("a line is not SDP")
        if line.startswith("a=ice-ufrag:"):
            ufrag = _value(_UFRAG, line)
        elif line.startswith("a=ice-pwd:"):
            password = _value(_PASSWORD, line)
        elif line.startswith("a=mid:") and mid == "0":
            mid = _value(_MID, line)
        elif line.startswith("a=candidate:"):
            candidates += 1
    return Fragment(ufrag, password, mid, candidates)


def build_fragment(
    mid: str, ufrag: str, password: str, candidates: list[tuple[str, int]], priority: int
) -> str:
    """Our side after a restart (RFC 9725 §4.3.3)."""
    lines = [
        "a=ice-lite",
        f"a=group:BUNDLE {mid}",
        "m=audio 9 UDP/TLS/RTP/SAVPF 0",
        f"a=mid:{mid}",
        f"a=ice-ufrag:{ufrag}",
        f"a=ice-pwd:{password}",
    ]
    for number, (host, port) in enumerate(candidates, 1):
        rank = priority - (number - 1) * 256
        lines.append(f"a=candidate:{number} 1 udp {rank} {host} {port} typ host")
    lines.append("a=end-of-candidates")
    return "\r\n".join(lines) + "\r\n"


def _value(pattern: re.Pattern[str], line: str) -> str:
    match = pattern.fullmatch(line)
    if match is None:
        raise FragmentError(f"{line.partition(':')[0]} has a bad value")
    return match[1]
