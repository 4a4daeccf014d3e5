"""What callers say: Opus of the right length, with a mark every two seconds."""

import itertools

from voicerelay.cli.loadtest.speech import (
    MARK_PERIOD_S,
    PACKETS_A_ROUND,
    SIGNAL_S,
    SILENCE,
    is_mark,
    payloads,
)
from voicerelay.transceiver.voice.opus import RATES, has_fec, is_packet, packet_samples


def test_a_round_is_opus_of_20_ms_with_fec() -> None:
    spoken = payloads()

    assert len(spoken) == PACKETS_A_ROUND
    assert {packet_samples(payload, RATES[-1]) for payload in spoken} == {960}
    assert sum(map(has_fec, spoken)) > PACKETS_A_ROUND / 2
    assert 40 < sum(map(len, spoken)) / len(spoken) < 140


def test_marks_come_every_two_seconds_over_the_rounds_end_too() -> None:
    marks = [packet for packet in range(2 * PACKETS_A_ROUND) if is_mark(packet % PACKETS_A_ROUND)]

    assert len(marks) == 2 * SIGNAL_S / MARK_PERIOD_S
    assert {b - a for a, b in itertools.pairwise(marks)} == {100}


def test_silence_is_opus_too() -> None:
    assert is_packet(SILENCE)
    assert packet_samples(SILENCE, 48_000) == 960
