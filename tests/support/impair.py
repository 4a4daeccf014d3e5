"""A bad network without a network: what becomes of (time, packet) on its way, from a seed."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from voicerelay.transceiver.voice.rtp import RtpPacket

Timed = tuple[float, RtpPacket]  # seconds
REORDER_S = 0.03  # behind the next packet of a voice


@dataclass(frozen=True)
class Impairment:
    """Shares are 0..1 of the packets. Each is lost by itself, or in bursts of `burst` on average.

    jitter_s: each packet is delayed by up to that, evenly spread, so that packets overtake.
    reorder: these are held back by REORDER_S besides. max_bytes: datagrams above it never arrive.
    """

    loss: float = 0.0
    burst: float | None = None
    jitter_s: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    delay_s: float = 0.02
    reorder: float = 0.0
    max_bytes: int = 65_535


class Fates:
    """What becomes of one packet after the other: for each ask `lost`, and if it is not, `copies`."""

    def __init__(self, how: Impairment, seed: int | str) -> None:
        self.chance = random.Random(seed)
        self._how = how
        self._losing = False
        # Gilbert's two states; with these chances `loss` is the share of all.
        self._ends = 1 / how.burst if how.burst else 1 - how.loss
        self._begins = self._ends * how.loss / (1 - how.loss)

    def lost(self) -> bool:
        """Whether the next packet is lost."""
        draw = self.chance.random()
        self._losing = draw >= self._ends if self._losing else draw < self._begins
        return self._losing

    def copies(self) -> Iterator[tuple[float, bool]]:
        """Its delay in s, and whether it is spoilt; twice for a duplicate."""
        how, chance = self._how, self.chance
        for _ in range(1 + (chance.random() < how.duplicate)):
            delay_s = how.delay_s + chance.random() * how.jitter_s
            spoilt = chance.random() < how.corrupt
            if how.reorder and chance.random() < how.reorder:
                delay_s += REORDER_S
            yield delay_s, spoilt


def impair(sent: list[Timed], how: Impairment, seed: int) -> list[Timed]:
    """What arrives, in the order of its arrival. The first and the last packet come unharmed."""
    fates = Fates(how, seed)
    arriving: list[Timed] = []
    for index, (at, packet) in enumerate(sent):
        lost = fates.lost()
        if index in (0, len(sent) - 1):
            arriving.append((at + how.delay_s, packet))
        elif not lost:
            for delay_s, spoilt in fates.copies():
                arriving.append((at + delay_s, _spoil(packet, fates.chance) if spoilt else packet))
    return sorted(arriving, key=lambda timed: timed[0])


def _spoil(packet: RtpPacket, chance: random.Random) -> RtpPacket:
    """Bytes that are no Opus packet: code 3 with no frames (RFC 6716 §3.2.5)."""
    return packet._replace(payload=b"\x03\x00" + chance.randbytes(len(packet.payload)))
