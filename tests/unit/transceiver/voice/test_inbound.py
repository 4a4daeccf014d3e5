"""Inbound: each packet in its place, gaps waited for and given up; all of it bounded."""

import numpy as np
import pytest

from tests.support.voices import RATE, SSRC, Ear, clean, heard, numbered, spoken, stream
from voicerelay.shm.counters import TransceiverCounter as Drop
from voicerelay.transceiver.voice.inbound import (
    MAX_DROPOUT,
    MAX_HELD_PACKETS,
    MAX_LOST_REMEMBERED,
    MAX_MISORDER,
    MAX_WAIT_S,
    MIN_WAIT_S,
)

FRAME_TICKS = 960
LAST_16, LAST_32 = 0xFFFF, 0xFFFFFFFF


def like_clean(ear: Ear, numbers: range) -> bool:
    return all(np.array_equal(ear.frames[n], clean()[n]) for n in numbers)


# ---- order ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sequence", [0, LAST_16 - 5])
@pytest.mark.parametrize("timestamp", [0, LAST_32 - 5 * FRAME_TICKS])
def test_a_packet_that_is_next_is_heard_at_once(sequence: int, timestamp: int) -> None:
    ear = Ear(RATE)

    sent = stream(spoken(), sequence=sequence, timestamp=timestamp)
    ear.take(*sent)

    assert like_clean(ear, range(len(sent)))
    assert ear.times == [at for at, _ in sent]
    assert ear.inbound.deadline is None


@pytest.mark.parametrize("sequence", [0, LAST_16 - 3])
def test_packets_that_overtake_each_other_are_put_in_order(sequence: int) -> None:
    ear = Ear(RATE)
    sent = stream(spoken(), sequence=sequence)

    for index in (0, 1, 3, 5, 4, 2, 6):
        ear.take((0.0, sent[index][1]))

    assert like_clean(ear, range(7))
    assert (ear.inbound.stats.reordered, ear.inbound.stats.lost) == (2, 0)
    assert ear.inbound.deadline is None


def test_a_gap_is_waited_for_and_no_longer() -> None:
    # given a packet missing
    ear = heard(0, 1, now=1.0)
    ear.take((1.0, numbered(3)), (1.02, numbered(4)))
    assert (len(ear.frames), ear.inbound.deadline) == (2, 1.0 + MIN_WAIT_S)

    # when it has been waited for not quite, and then long enough
    ear.inbound.expire(1.0 + MIN_WAIT_S - 0.001)
    early = len(ear.frames)
    ear.inbound.expire(1.0 + MIN_WAIT_S)

    # then it is filled, what came after it is heard at once, and so is what is next
    assert (early, len(ear.frames), ear.inbound.deadline) == (2, 5, None)
    ear.take((1.04, numbered(5)))
    assert len(ear.frames) == 6


def test_each_gap_has_its_own_wait() -> None:
    # given two gaps, one seen 20 ms after the other
    ear = heard(0, 2)
    ear.take((0.02, numbered(4)))

    # when the first is given up
    ear.inbound.expire(MIN_WAIT_S)

    # then the second is still waited for
    assert len(ear.frames) == 3
    assert ear.inbound.deadline == 0.02 + MIN_WAIT_S


def test_a_timer_that_is_late_is_not_needed() -> None:
    ear = heard(0, 2)

    ear.inbound.receive(numbered(3), 1.0)

    assert len(ear.frames) == 4


def test_what_comes_after_its_place_was_filled_is_dropped_as_late() -> None:
    ear = heard(0, 2)
    ear.inbound.expire(MIN_WAIT_S)

    reasons = [ear.inbound.receive(numbered(1), 0.05) for _ in range(2)]

    assert reasons == [Drop.DROPPED_LATE_VOICE, Drop.DROPPED_DUPLICATE_VOICE]
    assert len(ear.frames) == 3


def test_what_was_sent_before_the_first_is_late() -> None:
    assert heard(5).inbound.receive(numbered(4), 0.0) is Drop.DROPPED_LATE_VOICE


def test_a_duplicate_is_dropped_played_or_held() -> None:
    ear = heard(0, 1, 3)

    reasons = [ear.inbound.receive(numbered(number), 0.0) for number in (1, 3, 0)]

    assert reasons == [Drop.DROPPED_DUPLICATE_VOICE] * 3
    assert len(ear.frames) == 2


def test_the_wait_grows_with_what_packets_need_and_shrinks_again() -> None:
    # given a packet that came 70 ms after its gap was seen
    ear = heard(0, 2)
    ear.inbound.expire(MIN_WAIT_S)
    ear.inbound.receive(numbered(1), 0.07)

    # when the next are missing
    waits = []
    for number in range(3, 203, 2):
        ear.inbound.receive(numbered(number + 1), 1.0)
        assert ear.inbound.deadline is not None
        waits.append(ear.inbound.deadline - 1.0)
        ear.inbound.expire(ear.inbound.deadline)

    # then they are waited for so long, and for ever less while none comes
    assert 0.07 < waits[0] <= MAX_WAIT_S
    assert waits == sorted(waits, reverse=True)
    assert waits[-1] == pytest.approx(MIN_WAIT_S, abs=0.001)


@pytest.mark.parametrize(("after_s", "wait_s"), [(0.099, MAX_WAIT_S), (0.2, MIN_WAIT_S)])
def test_the_wait_has_a_limit_and_the_hopeless_does_not_count(
    after_s: float, wait_s: float
) -> None:
    ear = heard(0, 2)
    ear.inbound.expire(MIN_WAIT_S)
    ear.inbound.receive(numbered(1), after_s)

    ear.inbound.receive(numbered(4), 1.0)

    assert ear.inbound.deadline == pytest.approx(1.0 + wait_s, abs=0.001)


def test_only_so_many_packets_are_held() -> None:
    # given as many packets behind a gap as are held
    ear = heard(0, *range(2, 1 + MAX_HELD_PACKETS))
    assert len(ear.frames) == 1

    # when one more comes
    ear.take((0.0, numbered(1 + MAX_HELD_PACKETS)))

    # then nothing is waited for any more
    assert len(ear.frames) == 2 + MAX_HELD_PACKETS
    assert ear.inbound.deadline is None


def test_only_so_many_lost_packets_are_remembered() -> None:
    ear = heard(0, 200)
    ear.inbound.expire(MIN_WAIT_S)

    oldest = ear.inbound.receive(numbered(200 - MAX_LOST_REMEMBERED), 0.1)
    older = ear.inbound.receive(numbered(199 - MAX_LOST_REMEMBERED), 0.1)

    assert (oldest, older) == (Drop.DROPPED_LATE_VOICE, Drop.DROPPED_DUPLICATE_VOICE)


# ---- another stream ------------------------------------------------------------------------------


def test_another_source_begins_anew_with_nothing_filled() -> None:
    # given a stream with a packet held
    ear = heard(0, 1, 3)

    # when another source speaks, far from its numbers
    ear.take(*stream(spoken(), sequence=40_000, timestamp=123_456_789, ssrc=SSRC + 1))

    # then what was held is heard before it, and it is heard as if it had been alone
    assert len(ear.frames) == 4 + len(spoken())
    assert np.array_equal(np.array(ear.frames[4:]), np.array(clean()))
    assert (ear.inbound.stats.resyncs, ear.inbound.deadline) == (1, None)


def test_what_the_source_before_lost_is_not_missing_from_the_next() -> None:
    # given a source that lost a packet
    ear = heard(0, 2)
    ear.inbound.expire(MIN_WAIT_S)

    # when another one sends that number twice
    ear.take(*((0.1, numbered(number, ssrc=SSRC + 1)) for number in (0, 1, 2)))
    again = ear.inbound.receive(numbered(1, ssrc=SSRC + 1), 0.1)

    # then the second is a duplicate
    assert again is Drop.DROPPED_DUPLICATE_VOICE


@pytest.mark.parametrize("there", [MAX_DROPOUT + 2, -MAX_MISORDER - 1, 0x8000])
def test_two_packets_in_a_row_far_away_are_a_new_beginning(there: int) -> None:
    ear = heard(0)

    stray = ear.inbound.receive(numbered(there), 0.0)
    ear.take((0.0, numbered(there + 1)), (0.0, numbered(there + 2)))

    assert stray is Drop.DROPPED_STRAY_VOICE
    assert (len(ear.frames), ear.inbound.stats.resyncs) == (3, 1)


@pytest.mark.parametrize("there", [MAX_DROPOUT + 1, 1 - MAX_MISORDER])
def test_packets_not_so_far_away_belong_to_the_stream(there: int) -> None:
    ear = heard(0)

    ear.take((0.0, numbered(there)))

    assert ear.inbound.stats.stray == 0


def test_a_single_packet_from_far_away_changes_nothing() -> None:
    ear = heard(0, 30_000, 1, 50_000, 2)

    assert like_clean(ear, range(3))
    assert ear.inbound.stats.stray == 2
