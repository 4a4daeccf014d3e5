"""Voice in C, the way out: it says what Python would, in the same bytes, and counts what it cannot send."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.voices import RATE, speech
from tests.unit.transceiver.voice.test_engine import (
    HOSTS,
    QUEUE,
    Line,
    Talker,
    needs_library,
    pointer,
)
from voicerelay.shm.path import pack_path
from voicerelay.transceiver.agent import AudioPacket
from voicerelay.transceiver.voice import pcm
from voicerelay.transceiver.voice.engine import Compiled, Engine
from voicerelay.transceiver.voice.line import ffi
from voicerelay.transceiver.voice.opus import Pcm
from voicerelay.transceiver.voice.phase import Phase

WRAP = 1 << 16


def speaking(compiled: Compiled, line: Line, count: int) -> tuple[Phase, list[Talker]]:
    phase, talkers = Phase(), [Talker() for _ in range(count)]
    compiled.use_public(line.fds)
    for number, talker in enumerate(talkers):
        own = line.path if not number else pack_path(0, "192.0.2.1", number)
        compiled.connect(talker.voice.line, talker, own)
        talker.outbound.write(speech(0.04, RATE), RATE, 0.0)
        phase.add(talker, 0)
    return phase, talkers


@needs_library
def test_more_voices_than_the_queue_holds_are_all_sent() -> None:
    with Line("127.0.0.1") as line:
        compiled = Compiled()
        phase, talkers = speaking(compiled, line, 1)
        for _ in range(QUEUE):
            talker = Talker()
            talker.mouth.line = talkers[0].voice.line  # so that all go to one client
            talker.outbound.write(speech(0.02, RATE), RATE, 0.0)
            phase.add(talker, 0)

        said, left = compiled.turn(phase, 0, 0.0, 0)
        sent = compiled.speak()

        assert (said, left, sent) == (QUEUE + 1, (), (QUEUE + 1, 0))
        assert len(list(line.received())) == QUEUE + 1


@needs_library
def test_a_call_that_ends_between_its_turn_and_its_frame_says_nothing() -> None:
    with Line("127.0.0.1") as line:
        compiled = Compiled()
        phase, (talker,) = speaking(compiled, line, 1)

        assert compiled.turn(phase, 0, 0.0, 0) == (1, ())
        compiled.connect(talker.voice.line, talker, None)

        assert compiled.speak() == (0, 0)
        assert list(line.received()) == []
        assert compiled.turn(phase, 10, 0.02, 0) == (0, [talker])


@needs_library
def test_before_its_first_slot_nobody_has_a_turn() -> None:
    with Line("127.0.0.1") as line:
        compiled = Compiled()
        phase, (talker,) = speaking(compiled, line, 1)
        phase.remove(talker)
        phase.add(talker, 10)

        assert compiled.turn(phase, 0, 0.0, 0) == (0, ())
        assert compiled.turn(phase, 10, 0.02, 0) == (1, ())


@needs_library
def test_what_may_not_be_sent_or_has_no_path_is_left_to_python() -> None:
    with Line("127.0.0.1") as line:
        compiled = Compiled()
        phase, (talker,) = speaking(compiled, line, 1)

        talker.voice.line.tx = ffi.NULL
        assert compiled.turn(phase, 0, 0.0, 0) == (0, [talker])
        talker.voice.line.tx = pointer(talker.tx)
        talker.mouth.line = ffi.NULL
        assert compiled.turn(phase, 0, 0.0, 0) == (0, [talker])
        talker.mouth.line = talker.voice.line
        assert compiled.turn(phase, 0, 0.0, 0) == (1, ())


@needs_library
def test_what_no_socket_carries_is_counted() -> None:
    with Line("127.0.0.1") as line:
        compiled = Compiled()
        phase, _ = speaking(compiled, line, 1)
        compiled.use_public([])

        assert compiled.turn(phase, 0, 0.0, 0) == (1, ())
        assert compiled.speak() == (0, 1)


def test_python_alone_leaves_everybody_to_the_pacer() -> None:
    phase, talker = Phase(), Talker()
    phase.add(talker, 0)

    assert Engine().turn(phase, 0, 0.0, 0) == (0, (talker,))


# ---- alike ---------------------------------------------------------------------------------------


class Plain(pcm.Resampler):
    """Without the dither that soxr adds to whole numbers, another each time."""

    def __init__(self, rate: int, target: int) -> None:
        super().__init__(rate, target)
        self._stream = soxr.ResampleStream(rate, target, 1, dtype="float32", quality="HQ")

    def feed(self, pcm: Pcm, last: bool = False) -> Pcm:
        out: Pcm = super().feed(pcm.astype(np.float32), last).astype(np.int16)
        return out


@pytest.fixture(autouse=True, scope="module")
def same_each_time() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pcm, "Resampler", Plain)
        yield


WRITTEN_HZ = (8_000, 16_000, 24_000, 44_100, 48_000, 96_000)


@cache
def voice(rate: int) -> Pcm:
    """Speech, then silence."""
    return np.concatenate((speech(1.0, rate), np.zeros(rate // 2, np.int16)))


class Speakers:
    """One voice said both ways: by the engine into a socket, and without it."""

    def __init__(self, line: Line, dtx: bool) -> None:
        self.line, self.engine, self.phase = line, Compiled(), Phase()
        self.one, self.other = (Talker(dtx) for _ in range(2))
        start = self.one.voice.line
        start.sequence, start.timestamp = WRAP - 3, WRAP**2 - 960
        self.other.voice.line.sequence, self.other.voice.line.timestamp = WRAP - 3, WRAP**2 - 960
        self.engine.use_public(line.fds)
        self.slot, self.load, self.at = 0, 0, 0
        self.by_engine = 0
        self.arrived: list[bytes] = []
        self.connect(0)

    @property
    def now(self) -> float:
        return self.slot * 0.002

    def connect(self, _: int) -> None:
        self.engine.connect(self.one.voice.line, self.one, self.line.path)

    def disconnect(self, _: int) -> None:
        self.engine.connect(self.one.voice.line, self.one, None)

    def write(self, number: int) -> None:
        rate = WRITTEN_HZ[number % len(WRITTEN_HZ)]
        pcm = voice(rate)[self.at * rate // 1000 :]
        self.at = (self.at + 130) % 1500
        self.write_chunk(pcm[: (number * 7 % 600 + 1) * rate // 1000], rate)

    def write_chunk(self, chunk: Pcm, rate: int) -> None:
        took = [t.outbound.write(chunk, rate, self.now) for t in (self.one, self.other)]
        assert took[0] == took[1]
        if self.one not in self.phase.speakers:
            self.phase.add(self.one, self.slot)

    def turn(self, count: int) -> None:
        for _ in range(count % 16 + 1):
            self.turn_once()

    def turn_once(self) -> None:
        if self.one in self.phase.speakers:
            said, left = self.engine.turn(self.phase, self.slot, self.now, self.load)
            self.by_engine += said
            payloads = [(talker, talker.encode(self.now, self.load)) for talker in left]
            if said:
                self.engine.speak()
            for talker, payload in payloads:
                if payload:
                    talker.send(payload, self.now)
                elif payload is None:
                    self.phase.remove(talker)
            expected = self.other.encode(self.now, self.load)
            if expected:
                self.other.send(expected, self.now)
            assert (expected is None) == (self.one not in self.phase.speakers)
        self.slot += 10
        self.collect()

    def collect(self) -> None:
        """What has come by the socket, or would have by Python's."""
        self.arrived += self.line.received()
        self.arrived += self.one.sent
        self.one.sent.clear()

    def pause(self, slots: int) -> None:
        self.slot += slots % 2000

    def interrupt(self, _: int) -> None:
        assert self.one.outbound.interrupt() == self.other.outbound.interrupt()

    def lose(self, percent: int) -> None:
        for talker in (self.one, self.other):
            talker.outbound.loss_reported(percent % 30 / 100)

    def change_load(self, level: int) -> None:
        self.load = level % 4

    def end_utterance(self, _: int) -> None:
        for talker in (self.one, self.other):
            talker.outbound.end_utterance()

    def sweep(self, _: int) -> None:
        for talker in (self.one, self.other):
            talker.outbound.sweep(self.now)
        self.slot += 20_000 // 2
        self.pause(1)

    def send_packet(self, number: int) -> None:
        packet = AudioPacket(b"\x08own", number, number * 960 & 0xFFFFFFFF, bool(number % 2))
        for talker in (self.one, self.other):
            talker.send_packet(packet, self.now)
        self.collect()

    def compare(self) -> None:
        assert self.arrived == self.other.sent
        told, expected = (
            (
                *(t.outbound.played_ms, t.outbound.total_played_ms, t.outbound.frames, t.changes),
                *(t.outbound.dry, t.outbound.interrupted_ms, t.voice.sent, t.voice.sent_octets),
                *(t.mouth.read, t.mouth.write, t.mouth.level, t.mouth.refused, t.mouth.fed),
                t.voice.report(self.now, 0.0),
            )
            for t in (self.one, self.other)
        )
        assert told == expected


SAYS = (
    *(Speakers.write,) * 5,
    *(Speakers.turn,) * 6,
    *(Speakers.pause, Speakers.interrupt, Speakers.lose, Speakers.change_load, Speakers.sweep),
    *(Speakers.end_utterance, Speakers.send_packet, Speakers.disconnect, Speakers.connect),
)


@needs_library
@settings(deadline=None)
@given(
    st.sampled_from(HOSTS),
    st.booleans(),
    st.lists(st.tuples(st.sampled_from(SAYS), st.integers(0, 9999)), min_size=5, max_size=40),
)
def test_of_the_same_pcm_both_send_the_same(
    host: str, dtx: bool, said: list[tuple[Any, int]]
) -> None:
    with Line(host) as line:
        speakers = Speakers(line, dtx)

        for happens, number in said:
            happens(speakers, number)
        speakers.turn(15)

        speakers.compare()


@needs_library
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_of_a_voice_without_a_break_the_engine_says_every_whole_frame(host: str, rate: int) -> None:
    with Line(host) as line:
        speakers = Speakers(line, dtx=False)

        for _ in range(4):
            speakers.write(WRITTEN_HZ.index(rate) + 30)
            speakers.turn(3)

        assert speakers.by_engine == speakers.one.outbound.frames == 16
        speakers.compare()


@needs_library
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_writer_that_waits_for_room_is_woken_in_the_same_turn(rate: int) -> None:
    with Line("127.0.0.1") as line:
        # given more than there is room for
        speakers = Speakers(line, dtx=False)
        for _ in range(3):
            speakers.write_chunk(voice(rate)[:rate], rate)
        assert speakers.one.mouth.refused

        # when 300 ms are said, frame by frame
        for _ in range(15):
            speakers.turn(0)
            speakers.compare()

        # then whoever waited was woken once
        assert speakers.by_engine == 15
        assert speakers.one.changes == 1


@needs_library
def test_what_is_written_after_all_was_said_is_said_next() -> None:
    with Line("127.0.0.1") as line:
        speakers = Speakers(line, dtx=False)

        for start in (0, 640, 960):
            speakers.write_chunk(voice(RATE)[start : start + 640], RATE)
            speakers.turn(1)
            speakers.compare()

        assert speakers.by_engine == 6


@needs_library
def test_an_agents_packets_go_on_after_frames_of_its_voice() -> None:
    with Line("127.0.0.1") as line:
        speakers = Speakers(line, dtx=False)

        for number in (50, 51, 90):
            speakers.send_packet(number)
            speakers.write_chunk(voice(RATE)[:640], RATE)
            speakers.turn(1)

        assert speakers.by_engine == 6
        speakers.compare()
