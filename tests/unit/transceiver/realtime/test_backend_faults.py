"""Backends that are slow, loud, or break off: what the client is told, and that nothing stays behind."""

import asyncio
import base64
import gc
from itertools import pairwise

import numpy as np
import psutil
import pytest

from tests.unit.transceiver.realtime.test_backend import Brain, bridged
from tests.unit.transceiver.test_session import OPUS, THEIRS, WAIT_S, until
from voicerelay.shm.counters import TransceiverCounter
from voicerelay.transceiver.realtime import backend as module
from voicerelay.transceiver.realtime import patience
from voicerelay.transceiver.realtime.bridge import BYTES_PER_MS
from voicerelay.transceiver.realtime.oai import MAX_EVENT_BYTES
from voicerelay.transceiver.realtime.patience import MAX_RECONNECTS
from voicerelay.transceiver.voice.opus import Encoder
from voicerelay.transceiver.voice.rtp import RtpPacket, build_rtp


def sockets_to(port: int | None) -> int:
    found = psutil.Process().net_connections("tcp")
    return sum(bool(one.raddr) and one.raddr.port == port for one in found)


def test_an_answer_that_comes_slower_than_it_is_heard_is_one_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run() -> None:
        brain = Brain()
        async with bridged(monkeypatch, brain) as call:
            await until(lambda: bool(brain.sockets))
            await brain.say("response.created", response={"id": "r"})

            # when each piece comes after the one before was heard
            for number in range(1, 4):
                await brain.say_audio(20)
                heard = number * 20
                await until(lambda heard=heard: call.session.stats().played_ms == heard)  # type: ignore[misc]
            await brain.say("response.done", response={"id": "r"})

            await until(lambda: bool(call.told("output_audio_buffer.stopped")))
            assert len(call.told("output_audio_buffer.started")) == 1
            assert len(call.told("output_audio_buffer.stopped")) == 1
            assert not call.told("output_audio_buffer.cleared")

    asyncio.run(run())


def test_voice_that_a_backend_does_not_take_is_dropped_and_not_hoarded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run() -> None:
        brain = Brain()
        brain.deaf = True
        async with bridged(monkeypatch, brain) as call:
            await until(lambda: bool(brain.sockets))
            opus = Encoder(24_000).encode(np.zeros(480, np.int16))

            # when a caller has spoken for 40 s
            for number in range(2000):
                packet = RtpPacket(False, OPUS, number, number * 960, THEIRS, opus)
                call.rtp.send(build_rtp(packet))
                await asyncio.sleep(0)

            # then most of it was dropped: a second waits here, and some on its way
            assert call.session.stats().unread_ms > 20_000

            # and the call can end at once, with nothing left that waits to be sent
            port = call.backend._url.port
            assert sockets_to(port) == 1
            call.session.end("hung up")
            await call.ended()
            async with asyncio.timeout(WAIT_S):
                while sockets_to(port):
                    await asyncio.sleep(0.01)

    asyncio.run(run())


def test_a_minute_in_one_event_is_played_and_can_be_cleared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run() -> None:
        brain = Brain()
        async with bridged(monkeypatch, brain) as call:
            await until(lambda: bool(brain.sockets))
            await brain.say_audio(60_000)  # 3.8 MB
            await until(lambda: call.session.stats().played_ms > 0)

            call.send("output_audio_buffer.clear")

            await until(lambda: "conversation.item.truncate" in brain.kinds())
            (told,) = [e for e in brain.heard if e["type"] == "conversation.item.truncate"]
            assert 0 < told["audio_end_ms"] < 5_000

    asyncio.run(run())


def test_an_event_that_is_too_large_for_the_client_is_counted_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run() -> None:
        brain = Brain()
        async with bridged(monkeypatch, brain) as call:
            await until(lambda: bool(brain.sockets))
            await brain.say("response.output_text.delta", delta="x" * MAX_EVENT_BYTES)
            await brain.say("rate_limits.updated")

            await until(lambda: bool(call.told("rate_limits.updated")))
            assert call.count(TransceiverCounter.EVENTS_DROPPED_TOO_LARGE) == 1

    asyncio.run(run())


def test_a_message_that_is_too_large_breaks_the_connection_and_not_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_MESSAGE_BYTES", 10_000)

    async def run() -> None:
        brain = Brain()
        async with bridged(monkeypatch, brain) as call:
            await until(lambda: bool(brain.sockets))
            await brain.say("response.output_text.delta", delta="x" * 20_000)

            assert await call.error() == "backend_reconnected"
            assert call.count(TransceiverCounter.BACKENDS_LOST) == 1
            await brain.say("rate_limits.updated")
            await until(lambda: bool(call.told("rate_limits.updated")))

    asyncio.run(run())


def test_a_backend_that_breaks_off_in_its_answer_is_cleared_and_the_next_answer_is_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run() -> None:
        brain = Brain()
        async with bridged(monkeypatch, brain) as call:
            # given half an answer, of which something was heard
            await until(lambda: bool(brain.sockets))
            await brain.say("response.created", response={"id": "r"})
            await brain.say_audio(2000)
            await until(lambda: call.session.stats().played_ms > 0)

            transport = brain.sockets[0]._req.transport  # type: ignore[union-attr]
            assert transport is not None
            transport.abort()  # as kill -9 does

            await until(lambda: len(brain.sockets) == 2)
            assert call.told("output_audio_buffer.cleared")
            await brain.say("response.created", response={"id": "s"})
            await brain.say_audio(40, "s")
            await brain.say("response.done", response={"id": "s"})
            await until(lambda: bool(call.told("output_audio_buffer.stopped")))
            started = [e["response_id"] for e in call.told("output_audio_buffer.started")]
            assert started == ["r", "s"]

    asyncio.run(run())


def test_a_backend_that_hangs_up_again_and_again_ends_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patience, "FIRST_WAIT_S", 0.001)

    async def run() -> None:
        brain = Brain()
        brain.hangs_up = True
        async with bridged(monkeypatch, brain) as call:
            await call.ended()

            codes = [event["error"]["code"] for event in call.told("error")]
            assert codes == ["backend_reconnected"] * MAX_RECONNECTS + ["backend_lost"]
            assert len(brain.sockets) == MAX_RECONNECTS + 1

    asyncio.run(run())


def test_no_call_leaves_a_task_or_a_socket_however_its_backend_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patience, "RECONNECT_S", 0.0)

    async def run() -> None:
        brain = Brain()
        async with bridged(monkeypatch, brain) as call:
            await until(lambda: bool(brain.sockets))
            await brain.say_audio(2000)
            transport = brain.sockets[0]._req.transport  # type: ignore[union-attr]
            assert transport is not None
            transport.abort()
            await call.ended()

            gc.collect()
            names = [str(task.get_coro()) for task in asyncio.all_tasks()]
            assert not [name for name in names if "_Call" in name]
            client = call.backend._client
            assert client is not None
            assert client.connector is not None
            assert not client.connector._acquired

    asyncio.run(run())


def test_the_pieces_of_a_long_event_are_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half samples at the end of events, as a backend may cut them."""

    async def run() -> None:
        brain = Brain()
        async with bridged(monkeypatch, brain) as call:
            await until(lambda: bool(brain.sockets))
            pcm = bytes(200 * BYTES_PER_MS)
            cuts = [0, 1, 4801, 4802, 9600]
            for begin, end in pairwise(cuts):
                delta = base64.b64encode(pcm[begin:end]).decode()
                await brain.say(
                    "response.output_audio.delta", delta=delta, response_id="r", item_id="i"
                )
            await brain.say("response.done", response={"id": "r"})

            await until(lambda: bool(call.told("output_audio_buffer.stopped")))
            assert call.session.stats().played_ms == 200

    asyncio.run(run())
