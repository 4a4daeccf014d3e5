"""A bad network without a network: what becomes of (time, packet) on its way, from a seed."""

import random
from dataclasses import dataclass

from voicerelay.transceiver.rtp import RtpPacket

Timed = tuple[float, RtpPacket]  # seconds


@dataclass(frozen=True)
class Impairment:
    """Shares are 0..1 of the packets. Each is lost by itself, or in bursts of `burst` on average.

    jitter_s: each packet is delayed by up to that, evenly spread, so that packets overtake.
    """

    loss: float = 0.0
    burst: float | None = None
    jitter_s: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    delay_s: float = 0.02


def impair(sent: list[Timed], how: Impairment, seed: int) -> list[Timed]:
    """What arrives, in the order of its arrival. The first and the last packet come unharmed."""
    chance = random.Random(seed)
    arriving: list[Timed] = []
    losing = False
    ends = 1 / how.burst if how.burst else 1 - how.loss
    begins = ends * how.loss / (1 - how.loss)
    for index, (at, packet) in enumerate(sent):
        # Gilbert's two states; with these chances `loss` is the share of all.
        losing = chance.random() >= ends if losing else chance.random() < begins
        if index in (0, len(sent) - 1):
            arriving.append((at + how.delay_s, packet))
            continue
        if losing:
            continue
        for _ in range(1 + (chance.random() < how.duplicate)):
            there = at + how.delay_s + chance.random() * how.jitter_s
            spoilt = chance.random() < how.corrupt
            arriving.append((there, _spoil(packet, chance) if spoilt else packet))
    return sorted(arriving, key=lambda timed: timed[0])


def _spoil(packet: RtpPacket, chance: random.Random) -> RtpPacket:
    """Bytes that are no Opus packet: code 3 with no frames (RFC 6716 §3.2.5)."""
    return packet._replace(payload=b"\x03\x00" + chance.randbytes(len(packet.payload)))
