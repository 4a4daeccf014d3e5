"""Voice in C beside voice in Python: of the same packets they hear, of the same PCM they say the same."""

from collections import Counter, deque
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pylibsrtp import Policy

from tests.support.voices import OPUS, RATE, payloads, speech
from tests.unit.transceiver.voice.test_engine import (
    PATH,
    keyed,
    needs_library,
    pointer,
)
from voicerelay.shm.counters import TransceiverCounter
from voicerelay.transceiver.agent import AudioPacket
from voicerelay.transceiver.voice import rtp
from voicerelay.transceiver.voice.engine import FULL, Compiled
from voicerelay.transceiver.voice.hearing import Hearing
from voicerelay.transceiver.voice.opus import Pcm
from voicerelay.transceiver.voice.path import VoicePath

SSRCS = (0x0B0B0B0B, 0, 0xFFFFFFFF)
FRAMES_MS = (10, 20, 40, 60)
WRAP = 1 << 16


@cache
def spoken(frame_ms: int) -> list[bytes]:
    return payloads(speech(1.0, RATE), RATE, fec=True, frame_s=frame_ms / 1000)


# ---- in ------------------------------------------------------------------------------------------


class Recorded(Hearing):
    """Keeps each frame, and has no timer: a test says when a gap expires."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[bytes] = []

    def _emit(self, frame: Pcm) -> None:
        self.frames.append(frame.tobytes())
        super()._emit(frame)

    def _arm(self, deadline: float) -> None:
        pass


class Listener:
    """What a session does with media, by the engine or without it."""

    def __init__(self) -> None:
        self.voice, self.hearing = VoicePath(1, OPUS, "listener"), Recorded()
        self.rx = keyed(Policy.SSRC_ANY_INBOUND)
        self.voice.line.rx, self.voice.line.ear = pointer(self.rx), self.hearing.ear
        self.packets = self.refused = self.reports = 0
        self.drops = Counter[TransceiverCounter]()

    def heard(self, frame: Pcm) -> None:
        self.packets += 1
        self.hearing.heard(frame)

    def opened(self, data: bytes, at: float) -> None:
        try:
            packet = self.voice.receive(data, at)
        except rtp.RtpError:
            self.refused += 1
            return
        self.packets += 1
        reason = self.hearing.receive(packet, at)
        if reason is not None:
            self.drops[reason] += 1

    def judge(self, data: bytes, at: float) -> None:
        if rtp.is_rtcp(data):
            self.reports += self.rx.unprotect_rtcp(data) is not None
        elif (plain := self.rx.unprotect(data)) is None:
            self.refused += 1
        else:
            self.opened(plain, at)

    def state(self) -> tuple[Any, ...]:
        stream, inbound = self.voice.inbound, self.hearing._inbound
        ear = self.hearing.ear
        told: tuple[Any, ...] = ()
        if stream is not None:
            seen = stream.state
            told = seen.ssrc, seen.base, seen.highest, seen.received, seen.timed
            told += round(seen.jitter, 3), round(seen.last_transit, 3), stream.lost
        if inbound is not None:
            told += inbound.stats, inbound.deadline, ear.sequence, ear.timestamp, ear.torn
        counts = self.packets, self.refused, self.reports, self.drops
        return *counts, self.voice.octets_in, self.hearing.mended(), told

    def heard_packets(self) -> tuple[AudioPacket, ...]:
        reader = self.hearing._packets
        return reader.waiting() if reader is not None else ()


@dataclass
class Hearers:
    """A client's stream, and a call that hears it both ways. The clock is ours."""

    start: int  # sequence number
    timestamp: int
    batch: int = 64
    now: float = 100.0
    frame_ms: int = 20
    ssrc: int = SSRCS[0]
    sent: int = 0
    by_engine: int = 0  # frames
    engine: Compiled = field(default_factory=Compiled)
    one: Listener = field(default_factory=Listener)
    other: Listener = field(default_factory=Listener)

    def __post_init__(self) -> None:
        self.tx = keyed(Policy.SSRC_ANY_OUTBOUND)
        self.streams = {ssrc: [self.start, self.timestamp] for ssrc in SSRCS}
        self.latest = deque[bytes](maxlen=10)
        self.late: list[tuple[int, bytes]] = []  # packets to go before it, itself
        self.engine.connect(self.one.voice.line, self.one, PATH)

    def arrive(self, data: bytes) -> None:
        voice = self.engine._voice
        before, taken = voice.packets, self.engine.take(data, PATH)
        if taken == FULL:
            self.hand_on(0)
            before, taken = 0, self.engine.take(data, PATH)
        self.other.judge(data, self.now)
        if not taken:
            self.one.judge(data, self.now)
        elif voice.packets > before:
            voice.packet[before].at = self.now
        if voice.packets >= self.batch:
            self.hand_on(0)

    def send(self, first: bytes, second: int, more: bytes) -> bytes | None:
        """Protect a packet of these parts of its header, and of what follows it; its numbers are the next."""
        sequence, timestamp = self.streams[self.ssrc]
        numbers = sequence.to_bytes(2, "big") + timestamp.to_bytes(4, "big")
        plain = first + bytes([second]) + numbers + self.ssrc.to_bytes(4, "big") + more
        self.skip(1, self.frame_ms * 48)
        self.now += self.frame_ms / 1000
        return self.tx.protect(plain)

    def skip(self, packets: int, ticks: int) -> None:
        sequence, timestamp = self.streams[self.ssrc]
        self.streams[self.ssrc] = [(sequence + packets) % WRAP, (timestamp + ticks) % WRAP**2]

    def payload(self) -> bytes:
        every = spoken(self.frame_ms)
        self.sent += 1
        return every[self.sent % len(every)]

    def pass_on(self, secret: bytes | None) -> None:
        if secret is None:  # libsrtp will not send what lies so far behind
            return
        self.latest.append(secret)
        self.arrive(secret)
        self.late = [(wait - 1, data) for wait, data in self.late]
        for wait, data in list(self.late):
            if wait <= 0:
                self.late.remove((wait, data))
                self.arrive(data)

    def say(self, count: int) -> None:
        for _ in range(count % 16 + 1):
            self.pass_on(self.send(b"\x80", OPUS, self.payload()))

    def lose(self, count: int) -> None:
        for _ in range(count % 24 + 1):
            self.send(b"\x80", OPUS, self.payload())

    def be_late(self, wait: int) -> None:
        secret = self.send(b"\x80", OPUS, self.payload())
        if secret is not None:
            self.late.append((wait % 5 + 1, secret))

    def replay(self, which: int) -> None:
        if self.latest:
            self.arrive(self.latest[which % len(self.latest)])

    def forge(self, where: int) -> None:
        secret = self.send(b"\x80", OPUS, self.payload())
        if secret is not None:
            at = 12 + where % (len(secret) - 12)
            self.arrive(secret[:at] + bytes([secret[at] ^ 1 << where % 8]) + secret[at + 1 :])

    def dress(self, how: int) -> None:
        """Padding, CSRCs, header extensions, a marker, another payload type, nothing at all."""
        body = self.payload()
        dresses = (
            (b"\xa0", OPUS, body + bytes(3) + b"\x04"),
            (b"\xa0", OPUS, body + b"\x00"),
            (b"\xa0", OPUS, b"\x01"),
            (b"\xa0", OPUS, body[:20] + b"\xff"),
            (b"\x82", OPUS, bytes(8) + body),
            (b"\x90", OPUS, b"\xbe\xde\x00\x01" + bytes(4) + body),
            (b"\x80", 0x80 | OPUS, body),
            (b"\x80", 0, body),
            (b"\x80", 0x80 | 13, body),
            (b"\x80", OPUS, b""),
        )
        self.pass_on(self.send(*dresses[how % len(dresses)]))

    def corrupt(self, how: int) -> None:
        body = bytearray(self.payload())
        noise = how.to_bytes(4, "big")
        bodies = (
            noise[how % 4 :],
            bytes(body[: how % len(body)]),
            b"\xff" * (how % 300),
            noise * 50,
        )
        self.pass_on(self.send(b"\x80", OPUS, bodies[how % 7 % 4]))

    def jump(self, packets: int) -> None:
        self.skip(packets % WRAP, packets)

    def pause(self, ticks: int) -> None:
        self.skip(0, ticks)

    def change_source(self, which: int) -> None:
        self.ssrc = SSRCS[which % len(SSRCS)]

    def change_length(self, which: int) -> None:
        self.frame_ms = FRAMES_MS[which % len(FRAMES_MS)]

    def send_noise(self, number: int) -> None:
        self.arrive(bytes([128 + number % 64]) + number.to_bytes(4, "big") * (number % 12))

    def report(self, _: int) -> None:
        secret = self.tx.protect_rtcp(rtp.build_report(self.ssrc, "client", None, []))
        assert secret is not None
        self.arrive(secret)

    def change_batch(self, size: int) -> None:
        self.batch = size % 80 + 1

    def wait(self, ms: int) -> None:
        self.now += ms % 2000 / 1000

    def expire(self, _: int) -> None:
        self.hand_on(0)
        for listener in (self.one, self.other):
            if listener.hearing._inbound is not None:
                listener.hearing._inbound.expire(self.now)

    def listen(self, which: int) -> None:
        self.hand_on(0)
        for listener in (self.one, self.other):
            listener.hearing.listen((16_000, 24_000, 48_000)[which % 3])

    def take_packets(self, which: int) -> None:
        self.hand_on(0)
        if which % 4 == 0:  # from then on the engine decodes nothing
            for listener in (self.one, self.other):
                listener.hearing.packets()

    def hand_on(self, _: int) -> None:
        frames, refused = self.engine.hand_on()
        assert not frames or self.one.hearing._packets is None
        self.by_engine += frames
        self.one.refused += refused
        self.compare()

    def compare(self) -> None:
        assert self.one.hearing.frames == self.other.hearing.frames
        assert self.one.state() == self.other.state()
        assert self.one.heard_packets() == self.other.heard_packets()
        one, other = self.one.voice.inbound, self.other.voice.inbound
        assert (one and one.report(self.now)) == (other and other.report(self.now))


HAPPENS = (
    *(Hearers.say,) * 8,
    *(Hearers.lose, Hearers.be_late, Hearers.be_late, Hearers.replay, Hearers.forge),
    *(Hearers.dress, Hearers.corrupt, Hearers.jump, Hearers.pause, Hearers.change_source),
    *(Hearers.change_length, Hearers.send_noise, Hearers.report, Hearers.change_batch),
    *(Hearers.wait, Hearers.expire, Hearers.listen, Hearers.take_packets, Hearers.hand_on),
)


@needs_library
@settings(deadline=None)
@given(
    st.sampled_from((0, 1000, WRAP - 9)),
    st.sampled_from((0, WRAP**2 - 9 * 960)),
    st.lists(
        st.tuples(st.sampled_from(HAPPENS), st.integers(0, WRAP - 1)), min_size=5, max_size=40
    ),
)
def test_of_the_same_packets_both_hear_the_same(
    sequence: int, timestamp: int, happened: list[tuple[Any, int]]
) -> None:
    hearers = Hearers(sequence, timestamp)
    hearers.listen(0)

    for happens, number in happened:
        happens(hearers, number)
    hearers.expire(0)

    hearers.compare()


@needs_library
@pytest.mark.parametrize("rate", [16_000, 24_000, 48_000])
@pytest.mark.parametrize("batch", [1, 7, 80])
def test_of_a_voice_in_order_the_engine_decodes_all_but_the_first(rate: int, batch: int) -> None:
    # given two that listen, over every wrap there is
    hearers = Hearers(WRAP - 9, WRAP**2 - 9 * 960, batch=batch)
    hearers.listen((16_000, 24_000, 48_000).index(rate))
    hearers.say(0)
    hearers.hand_on(0)

    # when three batches come
    for _ in range(9):
        hearers.say(15)
    hearers.hand_on(0)

    # then all is heard, and the first packet alone was Python's
    assert len(hearers.one.hearing.frames) == 9 * 16 + 1
    assert hearers.by_engine == 9 * 16


@needs_library
def test_after_a_change_of_rate_and_back_the_engine_decodes_again() -> None:
    hearers = Hearers(0, 0, batch=1)

    for which in (0, 2, 1, 0):
        hearers.listen(which)
        hearers.say(9)
    hearers.hand_on(0)

    assert hearers.by_engine == 4 * 9
    hearers.take_packets(0)
    hearers.say(9)
    assert hearers.by_engine == 4 * 9
    assert len(hearers.one.heard_packets()) == 10
