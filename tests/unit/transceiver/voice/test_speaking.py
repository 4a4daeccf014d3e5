"""What an agent says: it waits for room, can be cut to the frame, and nothing is left of it at the end."""

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.support.voices import speech
from voicerelay.transceiver.agent import SessionClosed
from voicerelay.transceiver.voice.opus import FRAME_S, Decoder, Encoder
from voicerelay.transceiver.voice.outbound import OUTPUT_BUFFER_S, WAKE_ROOM_S
from voicerelay.transceiver.voice.pacer import Pacer
from voicerelay.transceiver.voice.speaking import Speaking

RATE = 24_000
FRAME = round(RATE * FRAME_S)
FRAME_MS = 20
BUFFERED = round(OUTPUT_BUFFER_S / FRAME_S)  # frames


class StillPacer(Pacer):
    """One whose turns the test gives."""

    def _arm(self) -> None:
        pass


class Call:
    """A call whose 20 ms pass when `frames` is called; what it sends is kept."""

    def __init__(self, pacer: Pacer | None = None) -> None:
        self.now = 100.0
        if pacer is None:
            pacer = StillPacer(asyncio.get_running_loop(), lambda: self.now)
        self.pacer = pacer
        self.sent: list[bytes] = []
        self.failures: list[str] = []
        self.speaking = Speaking("call", self.pacer, self)

    def send_frame(self, payload: bytes, due: float) -> None:
        self.sent.append(payload)

    def end(self, reason: str) -> None:
        self.failures.append(reason)

    async def frames(self, count: int) -> None:
        """The pacer's turns, and what tasks do after each."""
        for _ in range(count):
            self.now += FRAME_S
            if self.speaking in self.pacer._schedule:
                self._turn()
            await settle()

    def _turn(self) -> None:
        payload = self.speaking.encode(self.now, 0)
        if payload is None:
            self.pacer.remove(self.speaking)
        elif payload:
            self.speaking.send(payload, self.now)

    def task(self, seconds: float) -> asyncio.Task[None]:
        pcm = speech(seconds, RATE)
        return asyncio.create_task(self.speaking.play(pcm, RATE))


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def run(scenario: Callable[[Call], object]) -> None:
    async def main() -> None:
        call = Call()
        await scenario(call)  # type: ignore[misc]
        call.speaking.close()
        assert len(call.pacer) == 0
        await settle()
        assert not call.speaking._waiters

    asyncio.run(main())


def test_what_is_played_is_sent_frame_by_frame() -> None:
    async def scenario(call: Call) -> None:
        pcm = speech(0.5, RATE)
        await call.speaking.play(pcm, RATE)

        await call.frames(30)

        assert len(call.sent) == 25
        decoder = Decoder(RATE)
        heard = np.concatenate([decoder.decode(payload) for payload in call.sent])
        lag = np.correlate(heard.astype(float), pcm[:2400].astype(float)).argmax()
        assert lag < 0.02 * RATE

    run(scenario)


def test_at_most_a_second_waits_and_play_returns_when_the_rest_is_taken() -> None:
    async def scenario(call: Call) -> None:
        # given more than the buffer holds
        playing = call.task(3.0)
        await settle()
        assert call.speaking.outbound._buffer is not None
        assert call.speaking.outbound._buffer.waiting == RATE * OUTPUT_BUFFER_S

        # when it is sent, at no time more than a second waits
        for _ in range(3 * BUFFERED):
            if playing.done():
                break
            await call.frames(1)
            assert call.speaking.outbound._buffer.waiting <= RATE * OUTPUT_BUFFER_S

        # then play has returned at most a second before the end, and no more than woken up late
        said_s = len(call.sent) * FRAME_S
        assert 3 - OUTPUT_BUFFER_S <= said_s <= 3 - OUTPUT_BUFFER_S + WAKE_ROOM_S
        await call.frames(BUFFERED + 2)
        assert len(call.sent) == 3 * BUFFERED

    run(scenario)


def test_two_tasks_that_play_at_once_both_come_to_their_end() -> None:
    async def scenario(call: Call) -> None:
        # given one that waits for room, and another with little to say
        long = call.task(1.5)
        await settle()
        await call.frames(5)
        short = call.task(0.1)
        await settle()
        assert short.done()
        assert not long.done()

        # when time goes by
        await call.frames(int(WAKE_ROOM_S / FRAME_S) + 2)
        buffer = call.speaking.outbound._buffer
        assert buffer is not None

        # then the first one was woken before the output ran dry
        assert buffer.waiting > RATE * 0.6
        await call.frames(90)
        assert long.done()
        assert len(call.sent) == 80

    run(scenario)


@pytest.mark.parametrize("frames", [0, 1, 7, 49, 50, 73])
def test_interrupt_says_what_was_sent_to_the_frame_and_play_returns(frames: int) -> None:
    async def scenario(call: Call) -> None:
        playing = call.task(3.0)
        await settle()
        await call.frames(frames)

        assert call.speaking.interrupt() == frames * FRAME_MS == len(call.sent) * FRAME_MS
        await settle()

        assert playing.done()
        assert playing.exception() is None
        await call.frames(10)
        assert len(call.sent) == frames

    run(scenario)


def test_what_is_played_right_after_an_interrupt_is_another_utterance() -> None:
    async def scenario(call: Call) -> None:
        # given somebody who waits for room and is interrupted
        first = call.task(2.0)
        await settle()
        await call.frames(10)
        call.speaking.interrupt()

        # when the answer begins before the first task has run again
        second = call.task(0.1)
        await settle()
        assert first.done()
        await call.frames(10)

        # then only the answer is heard
        assert second.done()
        assert len(call.sent) == 10 + 5
        assert call.speaking.interrupt() == 100

    run(scenario)


def test_silence_is_not_encoded_and_has_no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Encoder] = []
    create = Encoder.__init__

    def counted(self: Encoder, rate: int, **more: int) -> None:
        made.append(self)
        create(self, rate, **more)

    monkeypatch.setattr(Encoder, "__init__", counted)

    async def scenario(call: Call) -> None:
        await call.frames(50)
        assert (made, len(call.pacer), call.sent) == ([], 0, [])

        await call.speaking.play(speech(0.1, RATE), RATE)
        await call.frames(10)
        assert (len(made), len(call.pacer), len(call.sent)) == (1, 0, 5)

    run(scenario)


def test_drain_waits_until_all_was_sent_and_ends_the_utterance() -> None:
    async def scenario(call: Call) -> None:
        await call.speaking.drain()  # nothing to wait for
        await call.speaking.play(speech(0.2, RATE), RATE)
        draining = asyncio.create_task(call.speaking.drain())

        await call.frames(10)
        assert not draining.done()
        await call.frames(1)

        assert draining.done()
        assert len(call.sent) == 10
        await call.speaking.play(speech(0.1, RATE), RATE)
        await call.frames(2)
        assert call.speaking.interrupt() == 2 * FRAME_MS

    run(scenario)


def test_drain_returns_when_it_is_interrupted() -> None:
    async def scenario(call: Call) -> None:
        await call.speaking.play(speech(0.5, RATE), RATE)
        draining = asyncio.create_task(call.speaking.drain())
        await call.frames(3)

        call.speaking.interrupt()
        await settle()

        assert draining.done()

    run(scenario)


def test_a_cancelled_play_leaves_no_waiter_and_what_it_gave_is_said() -> None:
    async def scenario(call: Call) -> None:
        playing = call.task(2.0)
        await settle()

        playing.cancel()
        await settle()

        assert not call.speaking._waiters
        await call.frames(BUFFERED + 2)
        assert len(call.sent) == BUFFERED

    run(scenario)


@pytest.mark.parametrize(
    ("pcm", "rate"),
    [
        (b"odd", RATE),
        (np.zeros(10, np.float32), RATE),
        (np.zeros((2, 2), np.int16), RATE),
        (b"", 7_999),
        (b"", 96_001),
    ],
)
def test_what_is_no_pcm_is_refused(pcm: Any, rate: int) -> None:
    async def scenario(call: Call) -> None:
        with pytest.raises(ValueError, match=r"PCM|rate|bytes"):
            await call.speaking.play(pcm, rate)
        assert len(call.pacer) == 0

    run(scenario)


def test_bytes_are_played_as_arrays_are() -> None:
    async def scenario(call: Call) -> None:
        await call.speaking.play(speech(0.1, RATE).tobytes(), RATE)
        await call.speaking.play(b"", RATE)
        await call.frames(10)

        assert len(call.sent) == 5

    run(scenario)


# ---- the end -------------------------------------------------------------------------------------


def test_after_the_end_playing_raises_and_nothing_waits() -> None:
    async def scenario(call: Call) -> None:
        # given somebody who waits for room, and somebody who waits for the end
        playing, draining = call.task(3.0), asyncio.create_task(call.speaking.drain())
        await settle()
        await call.frames(5)

        # when the call ends
        call.speaking.close()
        await settle()

        # then nobody waits, and what was said is still known
        assert isinstance(playing.exception(), SessionClosed)
        assert draining.exception() is None
        with pytest.raises(SessionClosed):
            await call.speaking.play(b"", RATE)
        assert call.speaking.interrupt() == 5 * FRAME_MS
        assert len(call.pacer) == 0

    run(scenario)


def test_one_voice_that_fails_ends_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        # given two calls of one pacer, of which one cannot send
        now = 100.0
        pacer = StillPacer(asyncio.get_running_loop(), lambda: now)
        good, bad = Call(pacer), Call(pacer)
        monkeypatch.setattr(bad, "send_frame", lambda *_: 1 / 0)
        for call in (good, bad):
            await call.speaking.play(speech(0.5, RATE), RATE)

        # when their turns come
        for _ in range(200):
            now += FRAME_S / 10
            pacer._tick()

        # then the other one is not touched
        assert bad.failures == ["its voice failed"]
        assert good.failures == []
        assert len(good.sent) == pytest.approx(200 // 10, abs=1)
        assert len(pacer) == 1
        good.speaking.close()

    asyncio.run(main())


def test_with_time_going_by_itself_all_is_said_and_no_timer_is_left() -> None:
    async def main() -> None:
        pacer = Pacer(asyncio.get_running_loop())
        call = Call(pacer)

        await call.speaking.play(speech(0.1, RATE), RATE)
        async with asyncio.timeout(10):
            await call.speaking.drain()

        assert len(call.sent) == 5
        assert (len(pacer), pacer._timer) == (0, None)

    asyncio.run(main())
