"""What an agent hears: whoever asks gets it, from the beginning, bounded, and nobody pays who has not asked."""

import asyncio
import importlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import numpy as np
import pytest

from tests.support.voices import clean, decoded, likeness, numbered, payloads, speech, spoken
from voicerelay.transceiver.agent import AudioPacket
from voicerelay.transceiver.voice import opus
from voicerelay.transceiver.voice.hearing import MAX_UNREAD_FRAMES, MAX_UNREAD_PACKETS, Hearing
from voicerelay.transceiver.voice.inbound import MIN_WAIT_S
from voicerelay.transceiver.voice.opus import FRAME_S, RATES, Decoder

RATE = 16_000  # of the spoken packets
T = TypeVar("T")


class Clock:
    """A loop whose timers are kept, not run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(asyncio, "get_running_loop", lambda: self)

    def call_at(self, when: float, callback: Callable[[], None]) -> "Timer":
        self.timers.append(Timer(when, callback))
        return self.timers[-1]

    def armed(self) -> list[float]:
        return [timer.when for timer in self.timers if not timer.done]

    def run_until(self, now: float) -> None:
        while due := [timer for timer in self.timers if not timer.done and timer.when <= now]:
            due[0].done = True
            self.now = due[0].when
            due[0].callback()
        self.now = now


class Timer:
    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when, self.callback, self.done = when, callback, False

    def cancel(self) -> None:
        self.done = True


def run(main: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(main)


def told(*numbers: int, listener: Hearing | None = None) -> Hearing:
    """A Hearing that got the packets of these numbers, at their times."""
    ear = listener or Hearing()
    for number in numbers:
        assert ear.receive(numbered(number), number * FRAME_S) is None
    return ear


async def rest(reader: AsyncIterator[T]) -> list[T]:
    return [item async for item in reader]


def read(ear: Hearing, reader: AsyncIterator[T]) -> list[T]:
    """What waits, at the end of the call."""
    ear.close()
    return run(rest(reader))


# ---- who asks ------------------------------------------------------------------------------------


def test_nothing_is_decoded_before_somebody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr(Decoder, "decode", lambda *_: made.append(1))

    ear = told(*range(200))
    ear.packets()
    told(*range(200, 300), listener=ear)

    assert not made
    assert not ear._before


def test_a_listener_begins_with_what_came_before_it_asked() -> None:
    ear = told(*range(5))

    frames = ear.listen(RATE)
    told(*range(5, 8), listener=ear)

    heard = read(ear, frames)
    assert len(heard) == 8
    assert all(np.array_equal(*pair) for pair in zip(heard, clean()[:8], strict=True))


def test_a_reader_of_packets_begins_with_what_came_before_it_asked() -> None:
    ear = told(*range(5))

    packets = ear.packets()
    told(5, listener=ear)

    assert read(ear, packets) == [AudioPacket(spoken()[n], n, n * 960) for n in range(6)]


def test_what_came_before_anybody_asked_is_bounded_and_counted() -> None:
    ear = told(*range(MAX_UNREAD_PACKETS + 7))

    assert len(ear._before) == MAX_UNREAD_PACKETS
    packets = ear.packets()

    assert ear.unread_packets() == 7
    assert [packet.sequence for packet in read(ear, packets)] == list(
        range(7, 7 + MAX_UNREAD_PACKETS)
    )


@pytest.mark.parametrize("rate", RATES)
def test_a_call_is_heard_at_each_rate(rate: int) -> None:
    # given a voice of 48 kHz
    said = payloads(speech(0.5, 48_000), 48_000)
    ear = Hearing()
    frames = ear.listen(rate)

    # when it comes
    for number, payload in enumerate(said):
        ear.receive(numbered(number, payload=payload), number * FRAME_S)

    # then its frames are 20 ms, int16, of that rate, and it is that voice
    heard = read(ear, frames)
    assert {(frame.dtype.name, len(frame)) for frame in heard} == {("int16", rate // 50)}
    assert likeness(np.concatenate(heard), np.concatenate(decoded(said, rate))) == 1


@pytest.mark.parametrize("rate", [0, -1, 8_001, 44_100, 96_000])
def test_another_rate_is_refused_and_changes_nothing(rate: int) -> None:
    ear = Hearing()
    frames = ear.listen(RATE)

    with pytest.raises(ValueError, match="16000"):
        ear.listen(rate)

    told(*range(3), listener=ear)
    assert len(read(ear, frames)) == 3


def test_frames_packets_and_speech_are_heard_at_once() -> None:
    ear = Hearing()
    frames, packets, speaking = ear.listen(RATE), ear.packets(), ear.speech()

    told(*range(30), listener=ear)

    assert (len(frames), len(packets)) == (30, 30)
    assert [change.started for change in read(ear, speaking)] == [True]


def test_a_frame_belongs_to_its_listener() -> None:
    ear = Hearing()
    frames = ear.listen(RATE)

    told(*range(3), listener=ear)

    heard = read(ear, frames)
    assert not any(np.shares_memory(a, b) for a, b in itertools.combinations(heard, 2))


# ---- slow and late readers -----------------------------------------------------------------------


def test_a_slow_listener_loses_the_oldest_frames_counted_and_nothing_grows() -> None:
    ear = Hearing()
    frames = ear.listen(RATE)

    told(*range(40), listener=ear)
    assert ear.unread_frames() == 0
    told(*range(40, 500), listener=ear)

    assert len(frames) == MAX_UNREAD_FRAMES == 1 / FRAME_S
    assert ear.unread_frames() == 500 - MAX_UNREAD_FRAMES
    assert len(read(ear, frames)) == MAX_UNREAD_FRAMES


def test_a_later_listener_ends_the_earlier_at_another_rate_too() -> None:
    ear = Hearing()
    first = ear.listen(RATE)
    told(*range(4), listener=ear)

    second = ear.listen(24_000)
    told(*range(4, 10), listener=ear)

    assert run(rest(first)) == []
    assert ear.unread_frames() == 4  # they were never read
    assert [len(frame) for frame in read(ear, second)] == [480] * 6


def test_a_later_reader_of_packets_ends_the_earlier() -> None:
    ear = Hearing()
    first = ear.packets()
    told(0, 1, listener=ear)

    second = ear.packets()
    told(2, listener=ear)

    assert run(rest(first)) == []
    assert ear.unread_packets() == 2
    assert [packet.sequence for packet in read(ear, second)] == [2]


def test_what_was_mended_is_counted_over_all_listeners(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    ear = Hearing()
    ear.listen(RATE)
    told(*(n for n in range(60) if n not in (10, 11, 30)), listener=ear)
    ear.receive(numbered(60), 60 * FRAME_S)
    before = ear.mended()

    ear.listen(48_000)
    told(*(n for n in range(61, 90) if n != 70), listener=ear)

    assert sum(before) == 3 * 20
    assert before.recovered_ms == 2 * 20
    assert sum(ear.mended()) == 4 * 20


# ---- gaps ----------------------------------------------------------------------------------------


def test_a_gap_is_waited_for_and_then_filled_without_a_further_packet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, ear = Clock(monkeypatch), Hearing()
    frames = ear.listen(RATE)
    told(0, 1, 2, listener=ear)
    assert clock.armed() == []

    told(4, listener=ear)

    assert clock.armed() == [4 * FRAME_S + MIN_WAIT_S]
    assert len(frames) == 3
    clock.run_until(1.0)
    assert len(frames) == 5
    assert clock.armed() == []


def test_a_gap_in_what_came_before_the_listener_is_waited_for_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, ear = Clock(monkeypatch), told(0, 1, 3)

    frames = ear.listen(RATE)
    assert len(clock.armed()) == 1
    clock.run_until(1.0)

    assert len(frames) == 4


def test_a_gap_that_closes_in_time_is_not_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, ear = Clock(monkeypatch), Hearing()
    frames = ear.listen(RATE)
    told(0, 2, 1, listener=ear)

    clock.run_until(1.0)

    assert len(frames) == 3
    assert sum(ear.mended()) == 0
    assert clock.armed() == []


def test_one_timer_runs_whatever_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, ear = Clock(monkeypatch), Hearing()
    ear.listen(RATE)
    for number in range(0, 200, 2):
        clock.run_until(number * FRAME_S)
        told(number, listener=ear)
        assert len(clock.armed()) <= 1


# ---- the end -------------------------------------------------------------------------------------


def test_at_the_end_no_timer_is_left_and_none_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, ear = Clock(monkeypatch), Hearing()
    frames = ear.listen(RATE)
    told(0, 2, listener=ear)
    assert len(clock.armed()) == 1

    ear.close()
    told(6, 9, listener=ear)

    assert clock.armed() == []
    assert len(frames) == 1


def test_who_asks_after_the_end_hears_what_was_left_and_does_not_wait() -> None:
    ear = told(*range(3))
    ear.close()

    assert len(run(rest(ear.listen(RATE)))) == 3
    assert run(rest(ear.listen(48_000))) == []
    assert run(rest(ear.packets())) == []
    assert run(rest(ear.speech())) == []


def test_every_reader_that_waits_is_woken_by_the_end() -> None:
    async def main() -> None:
        ear = Hearing()
        reading = [
            asyncio.create_task(rest(reader))
            for reader in (ear.listen(RATE), ear.packets(), ear.speech())
        ]
        await asyncio.sleep(0)

        ear.close()

        assert await asyncio.gather(*reading) == [[], [], []]

    run(main())


# ---- speech --------------------------------------------------------------------------------------


def test_speech_is_dated_on_the_time_line_of_the_listener() -> None:
    # given a listener, and a second of silence
    ear = Hearing()
    ear.listen(RATE)
    silence = payloads(np.zeros(RATE, np.int16), RATE)
    for number, payload in enumerate(silence):
        ear.receive(numbered(number, payload=payload), number * FRAME_S)

    # when somebody asks for speech only then
    speaking = ear.speech()
    told(*range(50, 90), listener=ear)

    # then the frames before count
    changes = read(ear, speaking)
    assert [change.started for change in changes] == [True]
    assert changes[0].at_ms == pytest.approx(1000, abs=100)


def test_without_the_detector_listening_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_name: str) -> None:
        raise ImportError

    monkeypatch.setattr(importlib, "import_module", missing)
    ear = Hearing()
    frames = ear.listen(RATE)

    with pytest.raises(RuntimeError, match=r"voicerelay\[vad\]"):
        ear.speech()

    told(*range(3), listener=ear)
    assert len(read(ear, frames)) == 3


def test_a_packet_that_is_no_opus_is_dropped_for_a_reason() -> None:
    ear = Hearing()
    ear.listen(RATE)
    told(0, listener=ear)

    reason = ear.receive(numbered(1, payload=b"\x03\x00"), FRAME_S)

    assert reason is not None
    assert opus.is_packet(numbered(1).payload)
