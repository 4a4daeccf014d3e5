"""The pacer: even phases, bounded catch-up after a stall, no timer in silence, one fault one call."""

import asyncio
import itertools
import logging
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from voicerelay.transceiver.voice.opus import FRAME_S
from voicerelay.transceiver.voice.pacer import (
    EARLY_S,
    MAX_CATCH_UP_FRAMES,
    NEVER,
    PHASES,
    SLOT_S,
    Pacer,
    Schedule,
)

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


class Voice:
    """A speaker with so many frames to say."""

    def __init__(self, frames: int = 1 << 30, fault: Exception | None = None) -> None:
        self.frames = frames
        self.fault = fault
        self.due: list[float] = []
        self.payload = b"opus"
        self.send_fault: Exception | None = None
        self.sent: list[tuple[float, bytes]] = []
        self.ended = ""
        self.short_id = "abc"
        self.then: Callable[[], None] = lambda: None
        self.mouth: Any = None

    def wake(self) -> None:
        raise AssertionError

    def encode(self, due: float, load: int) -> bytes | None:
        if self.fault is not None:
            raise self.fault
        if len(self.due) >= self.frames:
            self.then()
            return None
        self.due.append(due)
        return self.payload

    def send(self, payload: bytes, due: float) -> None:
        if self.send_fault is not None:
            raise self.send_fault
        self.sent.append((due, payload))

    def end(self, reason: str) -> None:
        self.ended = reason


def dues(schedule: Schedule, now: float) -> list[float]:
    """The frames of everything that is due at `now`."""
    found = []
    while (turn := schedule.take(now)) is not None:
        found += [
            s * SLOT_S for s in turn.slots for first in turn.phase.speakers.values() if s >= first
        ]
    return found


# ---- the schedule --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 9, 10, 11, 73, 400])
def test_speakers_are_spread_evenly(count: int) -> None:
    schedule = Schedule()

    for _ in range(count):
        schedule.add(Voice(), 5.0)

    sizes = schedule.sizes()
    assert sum(sizes) == len(schedule) == count
    assert max(sizes) - min(sizes) <= 1


def test_gaps_that_leavers_made_are_filled_first() -> None:
    schedule, voices = Schedule(), [Voice() for _ in range(40)]
    for voice in voices:
        schedule.add(voice, 0.0)

    for voice in voices[::10]:  # all of one phase
        schedule.remove(voice)
    for _ in range(4):
        schedule.add(Voice(), 3.3)

    assert schedule.sizes() == [4] * PHASES


def test_of_equally_empty_phases_it_is_the_next() -> None:
    schedule = Schedule()

    schedule.add(Voice(), 7.0011)

    assert schedule.next_due() == pytest.approx(7.002)


def test_a_speaker_has_one_turn_however_often_it_is_added() -> None:
    schedule, voice = Schedule(), Voice()

    for number in range(5):
        schedule.add(voice, number * 0.003)

    assert len(schedule) == 1
    assert sum(schedule.sizes()) == 1


def test_one_that_has_no_turn_can_be_removed() -> None:
    schedule = Schedule()

    schedule.remove(Voice())

    assert schedule.next_due() == NEVER


def test_a_turn_comes_each_20_ms_and_never_drifts() -> None:
    # given timers that come late, each differently
    schedule = Schedule()
    schedule.add(Voice(), 100.0)
    late = itertools.cycle([0.0, 0.0004, 0.003, 0.0189])

    found = []
    for _ in range(10_000):
        found += dues(schedule, schedule.next_due() + next(late))

    assert found == pytest.approx([100.0 + n * FRAME_S for n in range(10_000)], abs=1e-9)


def test_a_timer_that_comes_a_little_early_is_taken_as_it_is() -> None:
    schedule = Schedule()
    schedule.add(Voice(), 1.0)

    assert schedule.take(1.0 - 2 * EARLY_S) is None
    assert schedule.take(1.0 - EARLY_S / 2) is not None
    assert schedule.take(1.0) is None


@pytest.mark.parametrize("stalled_frames", [0, 1, 2, 5, 500])
def test_after_a_stall_few_frames_are_caught_up_and_the_rest_is_counted(
    stalled_frames: int,
) -> None:
    # given three speakers of one phase
    schedule = Schedule()
    for _ in range(2 * PHASES + 1):
        schedule.add(Voice(), 1.0)

    # when the loop comes late by so many frames
    now = 1.0 + stalled_frames * FRAME_S
    turn = schedule.take(now)

    # then each sends two at most, the newest, and is back in time
    assert turn is not None
    sent = min(stalled_frames + 1, MAX_CATCH_UP_FRAMES)
    assert (len(turn.phase.speakers), len(turn.slots)) == (3, sent)
    assert turn.slots[-1] * SLOT_S == pytest.approx(now)
    assert turn.skipped == 3 * (stalled_frames + 1 - sent)
    assert schedule._due[turn.slots[0] % PHASES] * SLOT_S == pytest.approx(now + FRAME_S)


def test_who_began_after_a_stall_has_nothing_to_catch_up() -> None:
    # given a phase that is late, and each other one fuller
    schedule, now = Schedule(), 1.0
    for _ in range(PHASES):
        schedule.add(Voice(), now)

    # when another speaker joins the late phase before its turn
    late = now + 10 * FRAME_S
    schedule.add(Voice(), late)
    turn = schedule.take(late)

    # then its first frame is the one due now
    assert turn is not None
    first = max(turn.phase.speakers.values())
    assert len(turn.phase.speakers) == 2
    assert first * SLOT_S == pytest.approx(late)
    assert [slot >= first for slot in turn.slots] == [False, True]
    assert turn.skipped == 9


def test_the_phase_that_is_most_behind_comes_first() -> None:
    schedule = Schedule()
    for _ in range(PHASES):
        schedule.add(Voice(), 1.0)

    found = dues(schedule, 1.0 + 0.9 * FRAME_S)

    assert found == pytest.approx([1.0 + n * SLOT_S for n in range(PHASES)])


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.floats(0, 0.2), st.sampled_from(["add", "remove", "take"])), max_size=80)
)
def test_whatever_happens_nobody_gets_more_than_time_has_passed(
    steps: list[tuple[float, str]],
) -> None:
    schedule, now = Schedule(), 1.0
    voices: list[Voice] = []

    for passed, action in steps:
        now += passed
        if action == "add":
            voices.append(Voice())
            schedule.add(voices[-1], now)
        elif action == "remove" and voices:
            schedule.remove(voices.pop(0))
        while (turn := schedule.take(now)) is not None:
            for slot in turn.slots:
                for speaker, first in turn.phase.speakers.items():
                    if slot >= first:
                        speaker.encode(slot * SLOT_S, 0)
        due = schedule.next_due()
        assert (due == NEVER) == (not voices)
        assert due == NEVER or now < due + EARLY_S <= now + FRAME_S + 2 * EARLY_S

    for voice in voices:
        gaps = [b - a for a, b in itertools.pairwise(voice.due)]
        assert all(gap > FRAME_S - 1e-9 for gap in gaps)
        assert all(abs(gap / FRAME_S - round(gap / FRAME_S)) < 1e-6 for gap in gaps)


# ---- in a loop -----------------------------------------------------------------------------------


def run(
    new_loop: Callable[[], asyncio.AbstractEventLoop], voices: list[Voice], count: int = 1
) -> Pacer:
    """Let them speak until `count` of them have fallen silent."""
    loop = new_loop()
    silent: list[Voice] = []
    for voice in voices:

        def fell_silent(voice: Voice = voice) -> None:
            silent.append(voice)
            if len(silent) == count:
                loop.stop()

        voice.then = fell_silent
    pacer = Pacer(loop)
    for voice in voices:
        pacer.add(voice)
    try:
        loop.run_forever()
    finally:
        loop.close()
    return pacer


@pytest.mark.parametrize("new_loop", LOOPS)
def test_speakers_have_their_turns_until_they_are_silent(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    voices = [Voice(frames) for frames in (3, 5, 4)]

    pacer = run(new_loop, voices, len(voices))

    assert [len(voice.due) for voice in voices] == [3, 5, 4]
    assert pacer.frames == 12
    assert pacer.lateness(0.5) > 0.0


@pytest.mark.parametrize("new_loop", LOOPS)
def test_in_silence_nothing_is_scheduled(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    pacer = run(new_loop, [Voice(2)])

    assert len(pacer) == 0
    assert pacer._timer is None
    assert (pacer.load_level, pacer.overloaded) == (0, False)


def test_who_is_removed_while_others_speak_has_no_more_turns() -> None:
    # given a speaker whose first turn ends the one after it in the same phase
    ending, others, last = Voice(0), [Voice(3) for _ in range(PHASES - 1)], Voice()
    loop = uvloop.new_event_loop()
    pacer = Pacer(loop)
    ending.then = lambda: pacer.remove(last)
    others[-1].then = loop.stop
    for voice in (ending, *others, last):
        pacer.add(voice)

    loop.run_forever()
    loop.close()

    assert last.due == []
    assert last not in pacer._schedule


@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_fault_ends_its_own_call_with_one_line(
    new_loop: Callable[[], asyncio.AbstractEventLoop], caplog: pytest.LogCaptureFixture
) -> None:
    # given a faulty speaker before, among and after others, one in their phase too
    faulty = Voice(fault=RuntimeError("boom"))
    voices = [Voice(5) for _ in range(2 * PHASES)]

    with caplog.at_level(logging.ERROR):
        pacer = run(new_loop, [faulty, *voices], len(voices))

    assert [len(voice.due) for voice in voices] == [5] * len(voices)
    assert (faulty.ended, len(pacer)) == ("its voice failed", 0)
    (record,) = caplog.records
    assert "session abc" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is faulty.fault


def test_all_of_a_phase_are_encoded_before_the_first_is_sent() -> None:
    # given two speakers of one phase that write down what happens to them
    happened: list[str] = []

    class Noting(Voice):
        def encode(self, due: float, load: int) -> bytes | None:
            happened.append("encode")
            return super().encode(due, load)

        def send(self, payload: bytes, due: float) -> None:
            happened.append("send")
            super().send(payload, due)

    voices = [Noting(3), *(Voice(3) for _ in range(PHASES - 1)), Noting(3)]

    run(uvloop.new_event_loop, voices, len(voices))

    # then they are encoded together in the turns that they share: one may have begun a turn earlier
    turns = "".join(what[0] for what in happened)
    assert turns.count("eess") >= 2
    assert [len(voice.sent) for voice in voices] == [3] * len(voices)


def test_a_turn_without_a_payload_sends_nothing_and_is_not_the_last() -> None:
    voice = Voice(3)
    voice.payload = b""

    pacer = run(uvloop.new_event_loop, [voice])

    assert (len(voice.due), voice.sent, pacer.frames) == (3, [], 3)


def test_who_cannot_be_sent_ends_alone(caplog: pytest.LogCaptureFixture) -> None:
    # given one speaker of a phase whose packets cannot leave, and one behind it
    broken, others, behind = Voice(), [Voice(2) for _ in range(PHASES - 1)], Voice(2)
    broken.send_fault = RuntimeError("boom")

    run(uvloop.new_event_loop, [broken, *others, behind], PHASES)

    assert (broken.ended, len(behind.sent)) == ("its voice failed", 2)
    assert len(caplog.records) == 1


def test_even_an_end_that_fails_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Stubborn(Voice):
        def end(self, reason: str) -> None:
            raise RuntimeError("no")

    other = Voice(2)

    run(uvloop.new_event_loop, [Stubborn(fault=RuntimeError("boom")), other])

    assert len(other.due) == 2
    assert len(caplog.records) == 2


def test_a_stalled_clock_is_counted_and_the_next_turn_is_in_time() -> None:
    # given a loop that is told of ten lost frames
    loop, now = asyncio.new_event_loop(), [1.0]
    voice, pacer = Voice(), Pacer(loop, lambda: now[0])
    pacer.add(voice)

    # when the turn comes so late
    now[0] += 11 * FRAME_S
    pacer._tick()
    loop.close()

    # then two are sent, ten are given up, and both count as late
    assert len(voice.due) == MAX_CATCH_UP_FRAMES
    assert (pacer.frames, pacer.frames_skipped) == (2, 10)
    assert pacer.lateness(0.99) >= 2 * FRAME_S
    assert pacer._armed == pytest.approx(now[0] + FRAME_S)
