"""Marks found again: the delay is right to a millisecond, through loss, other voices and silence."""

import numpy as np
import pytest

from voicerelay.cli.loadtest.ear import MAX_KEPT_PACKETS, RATE, Ear, find_mark
from voicerelay.cli.loadtest.speech import PACKETS_A_ROUND, SILENCE, is_mark, mark, payloads
from voicerelay.cli.loadtest.talk import PACKET_S
from voicerelay.transceiver.voice.opus import Decoder

CODEC_S = 0.0065  # the encoder looks ahead so far
MILLISECOND = 0.001


def echo(delay_s: float, lost: frozenset[int] = frozenset(), packets: int = 450) -> Ear:
    """A round sent and heard again `delay_s` later, packet by packet."""
    ear = Ear()
    spoken = payloads()
    for number in range(packets):
        sent = 100 + number * PACKET_S
        if is_mark(number):
            ear.mark_sent(sent)
        if number not in lost:
            ear.packet_came(spoken[number % PACKETS_A_ROUND], sent + delay_s)
    return ear


@pytest.mark.parametrize("delay_s", [0.0005, 0.08, 0.7, 1.7])
def test_the_delay_is_from_the_first_spoken_sample_to_its_packets_arrival(delay_s: float) -> None:
    delays = echo(delay_s, packets=145).delays(now=200.0)

    assert delays == [pytest.approx(delay_s + PACKET_S + CODEC_S, abs=MILLISECOND)]


def test_a_mark_is_judged_when_its_time_is_over() -> None:
    ear = echo(0.08, packets=150)

    assert ear.delays(now=100 + 50 * PACKET_S + 1.9) == []
    assert len(ear.delays(now=100 + 50 * PACKET_S + 2.1)) == 1
    assert ear.delays(now=200.0) == []


def test_at_the_end_of_a_call_the_marks_that_were_heard_count() -> None:
    ear = echo(0.08, packets=62)
    ear.mark_sent(101.2)

    assert ear.last_delays() == [pytest.approx(0.08 + PACKET_S + CODEC_S, abs=MILLISECOND)]
    assert ear.missed == 0


def test_a_mark_that_is_lost_is_missed_and_no_other_is_taken_for_it() -> None:
    ear = echo(0.08, lost=frozenset(range(48, 56)), packets=145)

    assert ear.delays(now=200.0) == []
    assert ear.missed == 1


def test_what_was_lost_before_a_mark_does_not_move_it() -> None:
    ear = echo(0.08, lost=frozenset({10, 20, 40, 46}), packets=140)

    (delay,) = ear.delays(now=200.0)

    assert delay == pytest.approx(0.08 + PACKET_S + CODEC_S, abs=MILLISECOND)


def test_speech_and_silence_are_no_marks() -> None:
    decoder = Decoder(RATE)
    speech = np.concatenate([decoder.decode(payload) for payload in payloads()[60:140]])
    silence = np.concatenate([decoder.decode(SILENCE) for _ in range(80)])

    assert find_mark(speech) is None
    assert find_mark(silence) is None
    assert find_mark(silence[:10]) is None


def test_a_mark_is_found_to_the_sample() -> None:
    pcm = np.zeros(8000, np.int16)
    pcm[1234 : 1234 + len(mark(RATE))] = mark(RATE)

    assert find_mark(pcm) == 1234


def test_what_is_kept_is_bounded_and_no_opus_is_borne() -> None:
    ear = echo(0.08, packets=PACKETS_A_ROUND)
    ear.packet_came(b"", 1.0)
    ear.packet_came(b"\x03\x00", 1.0)

    assert len(ear._heard) == MAX_KEPT_PACKETS
