"""The agent's half of a session, over a fake other half: what it may do, and what is left at the end."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pytest

from tests.support.voices import numbered, speech
from tests.unit.transceiver.test_channels import FakeChannel
from tests.unit.transceiver.voice.test_speaking import StillPacer
from voicerelay.shm.counters import TransceiverCounter
from voicerelay.transceiver.agent import AudioPacket, Message, Request, SessionClosed, Stats
from voicerelay.transceiver.channels import MAX_UNREAD_MESSAGES
from voicerelay.transceiver.conversation import Conversation
from voicerelay.transceiver.voice import rtp
from voicerelay.transceiver.voice.opus import FRAME_S
from voicerelay.transceiver.voice.path import VoicePath
from voicerelay.transceiver.voice.rtp import ReportBlock, RtpPacket, build_report, build_rtp

OPUS, OURS = 111, 0x0A0A0A0A
RATE = 16_000


class Half(Conversation):
    """The half that carries it: what is sent is kept, unencrypted."""

    def __init__(self, pacer: StillPacer, request: Request | None = None) -> None:
        super().__init__("public-identity", pacer, request or Request())
        self._voice = VoicePath(OURS, OPUS, self.short_id)
        self.sent: list[RtpPacket] = []
        self.ended: list[str] = []
        self.may_send = True

    def end(self, reason: str) -> None:
        self.ended.append(reason)
        self.hang_up()

    @property
    def sending(self) -> bool:
        return self.may_send

    def send_protected(self, data: bytes, rtcp: bool) -> None:
        self.sent.append(rtp.parse_rtp(data))

    def _note(self, what: TransceiverCounter, by: int = 1) -> None: ...

    # ---- what a network does -----------------------------------------------------------------

    def say(self, *numbers: int) -> None:
        assert self._voice is not None
        for number in numbers:
            now = number * FRAME_S
            packet = self._voice.receive(build_rtp(numbered(number)), now)
            self._hearing.receive(packet, now)

    def turns(self, count: int, start: float = 100.0) -> None:
        for number in range(count):
            now = start + number * FRAME_S
            payload = self._speaking.encode(now, 0)
            if payload:
                self._speaking.send(payload, now)

    def report(self, lost: int, last_sr: int = 0) -> None:
        assert self._voice is not None
        block = ReportBlock(OURS, lost, 1, 1, 0, last_sr, 0)
        self._voice.receive_rtcp(build_report(1, "c", None, [block]), 0.0, 0.0)


def run(scenario: Callable[[Half], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        pacer = StillPacer(asyncio.get_running_loop(), lambda: 100.0)
        await scenario(Half(pacer))

    asyncio.run(main())


async def rest(reader: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in reader]


def test_stats_add_up() -> None:
    async def scenario(half: Half) -> None:
        # given a call of which some is lost, some unread, some said and some interrupted
        half.listen(RATE)
        half.say(*(n for n in range(200) if n not in (20, 21, 50)))
        await half.play(speech(0.5, RATE), RATE)
        half.turns(10)
        half.interrupt()
        half.report(lost=64)
        for number in range(MAX_UNREAD_MESSAGES + 3):
            half._channels.received("chat", str(number))

        stats = half.stats()

        # then every packet and every 20 ms is somewhere
        assert stats.packets_in == 197
        assert stats.packets_lost_in == 3
        assert stats.recovered_ms + stats.concealed_ms + stats.silent_ms == 3 * 20
        assert stats.recovered_ms > 0
        assert stats.unread_ms == (200 - 50) * 20
        assert stats.packets_out == stats.frames_played == len(half.sent) == 10
        assert stats.frames_played * 20 + stats.interrupted_ms == 500
        assert stats.fraction_lost_out == 0.25
        assert stats.messages_unread == 3
        assert stats.jitter_ms is not None
        assert stats.rtt_ms is None
        assert stats.duration_s >= 0

    run(scenario)


def test_duplicates_do_not_make_less_than_nothing_lost() -> None:
    async def scenario(half: Half) -> None:
        half.say(0, 1, 1, 1)

        assert half.stats().packets_lost_in == 0

    run(scenario)


def test_before_media_stats_are_zero_or_unknown() -> None:
    async def scenario(half: Half) -> None:
        half._voice = None

        stats = asdict(half.stats())

        del stats["duration_s"]
        assert set(stats.values()) <= {0, None}
        assert {field.name for field in fields(Stats)} == {*stats, "duration_s"}

    run(scenario)


def test_what_is_played_goes_out_as_one_stream_with_a_marked_beginning() -> None:
    async def scenario(half: Half) -> None:
        await half.play(speech(0.2, RATE), RATE)
        half.turns(10)

        assert [packet.marker for packet in half.sent] == [True] + [False] * 9
        steps = [
            ((b.sequence - a.sequence) & 0xFFFF, (b.timestamp - a.timestamp) & 0xFFFFFFFF)
            for a, b in itertools.pairwise(half.sent)
        ]
        assert set(steps) == {(1, 960)}
        assert {(packet.ssrc, packet.payload_type) for packet in half.sent} == {(OURS, OPUS)}

    run(scenario)


def test_an_agent_may_mix_packets_and_pcm() -> None:
    async def scenario(half: Half) -> None:
        half.send(AudioPacket(b"opus", 7, 700))
        await half.play(speech(0.02, RATE), RATE)
        half.turns(1)
        half.send(AudioPacket(b"opus", 8, 1660))

        sequences = [packet.sequence for packet in half.sent]
        assert [(s - sequences[0]) & 0xFFFF for s in sequences] == [0, 1, 2]

    run(scenario)


def test_a_call_that_may_not_send_sends_nothing() -> None:
    async def scenario(half: Half) -> None:
        half.may_send = False

        half.send(AudioPacket(b"opus", 7, 700))
        await half.play(speech(0.1, RATE), RATE)
        half.turns(5)

        assert half.sent == []
        assert half.stats().packets_out == 0

    run(scenario)


def test_messages_both_ways() -> None:
    async def scenario(half: Half) -> None:
        channel = FakeChannel("chat")
        half._channels.opened(channel)
        half._channels.received("chat", "hello")
        half._channels.received("chat", b"\x00")

        half.send_message("text")
        half.send_message(b"bytes", "chat")
        half.hang_up()

        assert channel.sent == ["text", b"bytes"]
        assert await rest(half.messages()) == [Message("chat", "hello"), Message("chat", b"\x00")]
        with pytest.raises(SessionClosed):
            half.send_message("too late")

    run(scenario)


def test_listening_speech_packets_and_messages_at_once() -> None:
    async def scenario(half: Half) -> None:
        readers = half.listen(24_000), half.packets(), half.speech(), half.messages()
        reading = [asyncio.create_task(rest(reader)) for reader in readers]
        await asyncio.sleep(0)

        half._channels.received("chat", "hello")
        half.say(*range(40))
        half.close()
        frames, packets, changes, messages = await asyncio.gather(*reading)

        assert len(frames) == len(packets) == 40
        assert {frame.shape for frame in frames} == {(480,)}
        assert [change.started for change in changes] == [True]
        assert messages == [Message("chat", "hello")]
        assert half.ended == ["closed by the agent"]

    run(scenario)


def test_after_the_end_every_way_to_wait_ends() -> None:
    async def scenario(half: Half) -> None:
        half.hang_up()

        for reader in (half.listen(), half.packets(), half.speech(), half.messages()):
            assert await rest(reader) == []
        await half.drain()
        assert half.interrupt() == 0
        with pytest.raises(SessionClosed):
            await half.play(np.zeros(10, np.int16))
        half.hang_up()  # twice is no fault

    run(scenario)


def test_the_request_is_what_it_was_given() -> None:
    async def main() -> None:
        request = Request("/whip", {"who": "me"}, {"X-Tenant": "7"}, {"voice": "alto"})
        pacer = StillPacer(asyncio.get_running_loop(), lambda: 100.0)

        assert Half(pacer, request).request is request

    asyncio.run(main())


def test_only_the_end_of_an_id_is_written_to_logs() -> None:
    async def scenario(half: Half) -> None:
        assert (half.id, half.short_id) == ("public-identity", "entity")

    run(scenario)
