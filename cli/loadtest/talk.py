"""Who speaks when: spurts and pauses of a conversation, in packets of 20 ms. Pure, from a seed."""

import random
from collections.abc import Iterator
from itertools import repeat
from typing import NamedTuple

PACKET_S = 0.02
SPURT_S = 1.5  # on average
SPREAD = 0.7  # a spurt or pause is its average, give or take this share: so it is bounded
COMFORT_PACKETS = (
    20  # in a pause one packet each 400 ms, as Opus encoders with DTX do (RFC 7587 §3.1.3)
)
FOREVER_PACKETS = 1 << 20


class Spurt(NamedTuple):
    """So many packets of speech, or of silence."""

    speech: bool
    packets: int


def spurts(share: float, chance: random.Random) -> Iterator[Spurt]:
    """Speech and silence in turn, speech `share` (0..1) of the time; it begins with speech, if there is any."""
    if share in (0, 1):
        yield from repeat(Spurt(bool(share), FOREVER_PACKETS))
    pause_s = SPURT_S * (1 - share) / share
    while True:
        for speech, mean_s in ((True, SPURT_S), (False, pause_s)):
            seconds = mean_s * chance.uniform(1 - SPREAD, 1 + SPREAD)
            yield Spurt(speech, max(1, round(seconds / PACKET_S)))
