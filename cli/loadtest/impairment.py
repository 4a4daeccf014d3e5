"""A bad network at the caller's side: which of its voice packets are lost or late, when its NAT moves it. Pure."""

import random
from dataclasses import dataclass

MAX_LOSS = 0.5
MAX_JITTER_S = 0.5
MIN_REBIND_S = 1.0


@dataclass(frozen=True)
class Impairment:
    """loss: share of the voice packets, each way. jitter_s: what is sent waits up to that. rebind_s: a new
    local port each so many seconds, give or take a half; 0: never.
    """

    loss: float = 0.0
    jitter_s: float = 0.0
    rebind_s: float = 0.0


class Fate:
    """What becomes of one call's packets; its two ways and its NAT draw from numbers of their own."""

    __slots__ = ("_how", "_in", "_nat", "_out")

    def __init__(self, how: Impairment, seed: str) -> None:
        self._how = how
        self._out, self._in, self._nat = (
            random.Random(f"{seed} {way}") for way in ("out", "in", "nat")
        )

    def out(self) -> float | None:
        """Seconds that the next packet to send waits; None: it is lost."""
        how = self._how
        if how.loss and self._out.random() < how.loss:
            return None
        return self._out.random() * how.jitter_s if how.jitter_s else 0.0

    def arrives(self) -> bool:
        """Whether the next packet from the server arrives."""
        return not self._how.loss or self._in.random() >= self._how.loss

    def next_rebind_s(self) -> float | None:
        """Seconds to the next new port."""
        how = self._how
        return how.rebind_s * self._nat.uniform(0.5, 1.5) if how.rebind_s else None
