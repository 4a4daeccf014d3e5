"""How a voice arrives, by its headers: loss, order, gaps and lateness, over wraps and new beginnings."""

import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicerelay.cli.loadtest.reception import BASE_S, Reception
from voicerelay.cli.loadtest.tally import Arrivals
from voicerelay.transceiver.voice.rtp import RtpPacket, build_rtp

SSRC = 99
TICKS = 960


def packet(number: int, ticks: int | None = None, ssrc: int = SSRC) -> bytes:
    timestamp = (number * TICKS if ticks is None else ticks) & 0xFFFFFFFF
    return build_rtp(RtpPacket(False, 111, number & 0xFFFF, timestamp, ssrc, b"opus"))


def received(arriving: Iterable[tuple[float, int]]) -> tuple[Reception, Arrivals]:
    """(seconds, number) each."""
    sums = Arrivals()
    reception = Reception(sums)
    for at, number in arriving:
        reception.add(packet(number), 1000 + at)
    return reception, sums


def even(numbers: Iterable[int], late_s: float = 0.0) -> list[tuple[float, int]]:
    return [(number * 0.02 + late_s, number) for number in numbers]


def test_an_even_stream_is_all_on_schedule() -> None:
    reception, sums = received(even(range(500)))

    assert (reception.expected, sums.frames, sums.late) == (500, 500, 0)
    assert (sums.duplicates, sums.reordered) == (0, 0)
    assert sums.gaps.quantile(0.99) == pytest.approx(0.02, rel=0.02)
    assert reception.jitter_s < 0.0001


@pytest.mark.parametrize("first", [65_500, 4_473_900])  # sequence and timestamp begin anew
def test_numbers_may_wrap(first: int) -> None:
    reception, sums = received(even(range(first, first + 200)))

    assert (reception.expected, sums.frames, sums.late) == (200, 200, 0)


def test_what_does_not_come_is_expected_and_makes_a_gap() -> None:
    reception, sums = received(even(n for n in range(100) if not 40 <= n < 45))

    assert (reception.expected, sums.frames) == (100, 95)
    assert sums.gaps.largest == pytest.approx(0.12)


def test_a_pause_that_the_sender_means_is_no_gap() -> None:
    sums = Arrivals()
    reception = Reception(sums)
    for number in range(10):
        reception.add(packet(number, ticks=number * 20 * TICKS), 1000 + number * 0.4)

    assert sums.gaps.largest == pytest.approx(0.02)
    assert (sums.late, reception.expected) == (0, 10)


def test_late_is_what_comes_more_than_20_ms_behind_its_place() -> None:
    arriving = even(range(100))
    arriving[50] = (arriving[50][0] + 0.019, 50)
    arriving[70] = (arriving[70][0] + 0.0195 + 0.02, 70)

    _, sums = received(sorted(arriving))

    assert sums.late == 1
    assert sums.lateness.largest == pytest.approx(0.0395, abs=1e-6)


def test_the_schedule_follows_a_clock_that_drifts() -> None:
    drifting = [(number * 0.02 * 1.0005, number) for number in range(6000)]

    _, sums = received(drifting)

    assert sums.late == 0
    assert sums.lateness.largest < 2.1 * BASE_S * 0.0005


def test_order_and_copies_are_told_apart() -> None:
    reception, sums = received([(0.0, 1), (0.04, 3), (0.041, 2), (0.042, 2), (0.06, 4), (0.061, 4)])

    assert (sums.reordered, sums.duplicates, sums.frames, reception.expected) == (1, 2, 4, 4)


@pytest.mark.parametrize("other", ["ssrc", "sequence", "timestamp"])
def test_a_sender_may_begin_anew(other: str) -> None:
    sums = Arrivals()
    reception = Reception(sums)
    for number in range(50):
        reception.add(packet(number), 1000 + number * 0.02)
    for number in range(50, 100):
        data = {
            "ssrc": packet(number + 7, ssrc=5),
            "sequence": packet(number + 5000),
            "timestamp": packet(number, ticks=number * TICKS + 48_000 * 1000),
        }[other]
        reception.add(data, 1000 + number * 0.02)

    assert (reception.expected, sums.frames, sums.late) == (100, 100, 0)


@given(st.binary(max_size=40), st.integers(0, 1 << 32))
def test_any_bytes_are_borne(data: bytes, seed: int) -> None:
    chance = random.Random(seed)
    reception = Reception(Arrivals())
    for _ in range(5):
        reception.add(data, chance.random())
        reception.add(chance.randbytes(12), chance.random())

    assert reception.expected >= 0
