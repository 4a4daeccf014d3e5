"""Spurts and pauses: the share asked for, none without bounds, speech first."""

import random
from itertools import islice

import pytest

from voicerelay.cli.loadtest.talk import PACKET_S, SPREAD, SPURT_S, spurts


@pytest.mark.parametrize("share", [0.1, 0.35, 0.5, 0.9])
def test_speech_has_its_share_of_the_time(share: float) -> None:
    spoken = list(islice(spurts(share, random.Random(7)), 2000))

    speech = sum(spurt.packets for spurt in spoken if spurt.speech)
    assert speech / sum(spurt.packets for spurt in spoken) == pytest.approx(share, abs=0.02)
    assert [spurt.speech for spurt in spoken[:4]] == [True, False, True, False]


def test_spurts_are_bounded() -> None:
    spoken = islice(spurts(0.5, random.Random(7)), 2000)

    longest = SPURT_S * (1 + SPREAD) / PACKET_S + 1
    assert all(1 <= spurt.packets <= longest for spurt in spoken)


@pytest.mark.parametrize(("share", "speech"), [(0.0, False), (1.0, True)])
def test_who_always_or_never_speaks_has_one_kind_only(share: float, speech: bool) -> None:
    assert {spurt.speech for spurt in islice(spurts(share, random.Random(7)), 20)} == {speech}


def test_a_seed_speaks_the_same() -> None:
    one, same = (list(islice(spurts(0.4, random.Random(9)), 50)) for _ in range(2))

    assert one == same
