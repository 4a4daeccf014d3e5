"""Whether so many calls were held with every frame on schedule, and what that took. Pure."""

from dataclasses import dataclass, field
from typing import Any

FRAMES_PER_S = 50
LEAST_FRAMES_PER_S = 49.5  # of any call: one frame of a window of 6 s is 0.17
MAX_LATE_MS = 5.0  # p99, of the server's most belated process
MAX_CALLERS_LATE_MS = 5.0  # p99; above it nothing is said about the server


@dataclass(frozen=True)
class Heard:
    """What the callers saw in a window; rates are frames/s."""

    up: int
    lost: int  # calls that had been up
    refused: dict[str, int]  # set-ups that failed, by reason
    in_min: float  # from the server, of the call that got least
    out_min: float
    late_p99_ms: float  # frames behind the quickest, as they came
    lag_p99_ms: float  # of the callers behind their own plan
    cpu: float  # of the callers, cores

    @classmethod
    def of(cls, parts: list[dict[str, Any]]) -> "Heard":
        """All callers' processes together."""
        refused: dict[str, int] = {}
        for part in parts:
            for reason, count in part["refused"].items():
                refused[reason] = refused.get(reason, 0) + count
        return cls(
            sum(part["up"] for part in parts),
            sum(part["lost"] for part in parts),
            refused,
            min(part["in_min"] for part in parts),
            min(part["out_min"] for part in parts),
            max(part["late_p99_ms"] for part in parts),
            max(part["lag_p99_ms"] for part in parts),
            sum(part["cpu"] for part in parts),
        )


@dataclass(frozen=True)
class Point:
    """One number of calls, tried. cost_us: CPU of all the server's processes for a second of a call."""

    calls: int
    cost_us: float
    busy: float  # cores
    late_p99_ms: float
    rss_bytes: int
    heard: Heard
    why_not: list[str] = field(default_factory=list)

    @property
    def held(self) -> bool:
        return not self.why_not


def objections(calls: int, late_p99_ms: float, heard: Heard) -> list[str]:
    """Why this is not `calls` calls on schedule; empty when it is."""
    found = []
    if heard.up < calls:
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(heard.refused.items()))
        found.append(f"{heard.up} of {calls} calls up ({reasons or 'lost'})")
    if heard.lost:
        found.append(f"{heard.lost} calls lost")
    if heard.in_min < LEAST_FRAMES_PER_S:
        found.append(f"{heard.in_min:.1f} frames/s from the server at one call")
    if heard.out_min < LEAST_FRAMES_PER_S:
        found.append(f"{heard.out_min:.1f} frames/s to the server at one call")
    if late_p99_ms > MAX_LATE_MS:
        found.append(f"frames late by {late_p99_ms:.1f} ms (p99)")
    if heard.lag_p99_ms > MAX_CALLERS_LATE_MS:
        found.append(f"the callers late by {heard.lag_p99_ms:.1f} ms themselves (p99)")
    return found
