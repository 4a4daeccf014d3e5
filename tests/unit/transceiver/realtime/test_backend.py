"""The way to a backend: connecting, carrying out, being bounded, and leaving nothing behind."""

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestServer

from tests.unit.transceiver.test_channels import FakeChannel
from tests.unit.transceiver.test_session import OPUS, THEIRS, WAIT_S, host, talking, until
from voicerelay.shm.counters import TransceiverCounter
from voicerelay.transceiver.agent import AppError
from voicerelay.transceiver.realtime import backend as module
from voicerelay.transceiver.realtime.backend import (
    MAX_UNANSWERED_PINGS,
    MAX_UNSENT_EVENTS,
    Backend,
    backend_app,
)
from voicerelay.transceiver.realtime.bridge import BYTES_PER_MS
from voicerelay.transceiver.realtime.oai import CHANNEL
from voicerelay.transceiver.session import LiveSession
from voicerelay.transceiver.settings import TransceiverSettings
from voicerelay.transceiver.voice.opus import Encoder
from voicerelay.transceiver.voice.rtp import RtpPacket, build_rtp

KEY = "sk-secret"


class Brain:
    """A backend under the test's control; `deaf`: it reads nothing. `hangs_up`: at once."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.sockets: list[web.WebSocketResponse] = []
        self.queries: list[str] = []
        self.status = 101
        self.deaf = self.hangs_up = False
        self.pings = 0
        self.over = asyncio.Event()

    async def connect(self, request: web.Request) -> web.StreamResponse:
        self.headers.append(dict(request.headers))
        self.queries.append(request.query_string)
        if self.status != 101:
            return web.Response(status=self.status)
        socket = web.WebSocketResponse(autoping=False)
        await socket.prepare(request)
        self.sockets.append(socket)
        if self.hangs_up:
            return socket
        if self.deaf:
            await self.over.wait()
            return socket
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                self.heard.append(json.loads(message.data))
            elif message.type is WSMsgType.PING:
                self.pings += 1
                await socket.pong(message.data)
        return socket

    def kinds(self) -> list[str]:
        return [event["type"] for event in self.heard]

    async def say(self, kind: str, **fields: Any) -> None:
        await self.sockets[-1].send_json({"type": kind} | fields)

    async def say_audio(self, ms: int, response: str = "r") -> None:
        delta = base64.b64encode(bytes(ms * BYTES_PER_MS)).decode()
        where = {"response_id": response, "item_id": f"i{response}", "content_index": 0}
        await self.say("response.output_audio.delta", delta=delta, **where)


class Call:
    """A call that is bridged, and what its client is told."""

    def __init__(self, session: LiveSession, rtp: Any, backend: Backend) -> None:
        self.session, self.rtp, self.backend = session, rtp, backend
        self.channel = FakeChannel(CHANNEL)
        assert session.channel_opened(self.channel)

    def told(self, kind: str = "") -> list[dict[str, Any]]:
        events = [json.loads(text) for text in self.channel.sent]
        return [event for event in events if kind in ("", event["type"])]

    def send(self, kind: str, **fields: Any) -> None:
        self.session.message_received(CHANNEL, json.dumps({"type": kind} | fields))

    def count(self, what: TransceiverCounter) -> int:
        return self.session._mux._block.get(what)

    async def error(self) -> str:
        await until(lambda: bool(self.told("error")))
        code: str = self.told("error")[-1]["error"]["code"]
        return code

    async def ended(self) -> None:
        async with asyncio.timeout(WAIT_S):
            await self.session.ended.wait()


@asynccontextmanager
async def bridged(
    monkeypatch: pytest.MonkeyPatch, brain: Brain, own_vad: bool = False
) -> AsyncIterator[Call]:
    monkeypatch.setattr(module, "FAREWELL_S", 0.0)
    app = web.Application()
    app.router.add_get("/v1/realtime", brain.connect)
    async with TestServer(app, shutdown_timeout=0.1) as server, host() as here:
        backend = Backend(str(server.make_url("/v1/realtime?model=m")), KEY, own_vad)
        session, client = await talking(here, monkeypatch, backend.agent)
        await asyncio.sleep(0)
        try:
            yield Call(session, client, backend)
        finally:
            brain.over.set()
        session.end("the test is over")
        await session.ended.wait()
        await backend.close()
        assert not [task for task in asyncio.all_tasks() if "_Call" in str(task)]


def test_voice_and_events_go_to_the_backend_with_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        brain, encoder = Brain(), Encoder(24_000)
        async with bridged(monkeypatch, brain) as call:
            call.send("response.create", event_id="e")
            for number in range(8):
                opus = encoder.encode(np.zeros(480, np.int16))
                packet = RtpPacket(False, OPUS, number, number * 960, THEIRS, opus)
                call.rtp.send(build_rtp(packet))

            await until(lambda: brain.kinds().count("input_audio_buffer.append") >= 2)

            assert {"type": "response.create", "event_id": "e"} in brain.heard
            appended = next(e for e in brain.heard if "audio" in e)
            assert len(base64.b64decode(appended["audio"])) == 40 * BYTES_PER_MS
            assert brain.headers[0]["Authorization"] == f"Bearer {KEY}"
            assert brain.queries == ["model=m"]

    asyncio.run(run())


def test_an_answer_is_played_between_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        brain = Brain()
        async with bridged(monkeypatch, brain) as call:
            await until(lambda: bool(brain.sockets))
            await brain.say("response.created", response={"id": "r"})
            await brain.say_audio(100)
            await brain.say("response.done", response={"id": "r"})

            await until(lambda: bool(call.told("output_audio_buffer.stopped")))

            kinds = [event["type"] for event in call.told()]
            assert kinds.index("output_audio_buffer.started") < len(kinds) - 1
            assert "response.output_audio.delta" not in kinds
            assert call.session.stats().played_ms == 100

    asyncio.run(run())


@pytest.mark.parametrize(("status", "code"), [(401, "backend_refused"), (500, "backend_refused")])
def test_a_refusal_is_told_without_the_key_or_the_address(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, status: int, code: str
) -> None:
    async def run() -> None:
        brain = Brain()
        brain.status = status
        async with bridged(monkeypatch, brain) as call:
            assert await call.error() == code
            await call.ended()
            said = caplog.text + "".join(str(text) for text in call.channel.sent)
            assert KEY not in said
            assert "127.0.0.1" not in said

    caplog.set_level(logging.DEBUG, "voicerelay")
    asyncio.run(run())


def test_a_lost_backend_is_tried_again_and_configured_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run() -> None:
        brain = Brain()
        async with bridged(monkeypatch, brain) as call:
            call.send("session.update", session={"instructions": "be"})
            await until(lambda: "session.update" in brain.kinds())
            brain.heard.clear()

            await brain.sockets[0].close()

            await until(lambda: "session.update" in brain.kinds())
            assert await call.error() == "backend_reconnected"
            assert brain.heard[0]["session"]["instructions"] == "be"

            # and when it refuses, the call ends
            brain.status = 503
            monkeypatch.setattr("voicerelay.transceiver.realtime.patience.RECONNECT_S", 0.1)
            await brain.sockets[1].close()
            await until(lambda: call.told("error")[-1]["error"]["code"] == "backend_lost")
            await call.ended()

    asyncio.run(run())


def test_events_for_a_backend_that_takes_none_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        brain = Brain()
        async with bridged(monkeypatch, brain) as call:
            for _ in range(MAX_UNSENT_EVENTS + 1):  # before the loop has run
                call.send("response.create")

            assert await call.error() == "too_many_events"

    asyncio.run(run())


def test_a_backend_that_is_deaf_and_dumb_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PING_S", 0.02)
    monkeypatch.setattr("voicerelay.transceiver.realtime.patience.RECONNECT_S", 0.0)

    async def run() -> None:
        brain = Brain()
        brain.deaf = True
        async with bridged(monkeypatch, brain) as call:
            assert await call.error() == "backend_lost"
            await call.ended()

    asyncio.run(run())


def test_a_backend_that_answers_pings_may_be_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PING_S", 0.02)

    async def run() -> None:
        brain = Brain()
        async with bridged(monkeypatch, brain) as call:
            await until(lambda: brain.pings > MAX_UNANSWERED_PINGS)
            assert not call.told("error")
            assert len(brain.sockets) == 1

    asyncio.run(run())


def test_audio_that_waits_is_bounded_and_the_client_can_still_clear_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING_MS", 2000)

    async def run() -> None:
        brain = Brain()
        async with bridged(monkeypatch, brain) as call:
            # given far more audio than may wait, and an event behind it
            await until(lambda: bool(brain.sockets))
            for _ in range(6):
                await brain.say_audio(1000)
            await brain.say("rate_limits.updated")
            await until(lambda: bool(call.told("output_audio_buffer.started")))
            assert not call.told("rate_limits.updated")

            # when the client has had enough
            call.send("output_audio_buffer.clear")

            # then what waited is gone, and the backend is read again
            await until(lambda: "conversation.item.truncate" in brain.kinds())
            assert call.told("output_audio_buffer.cleared")

    asyncio.run(run())


def test_messages_that_are_no_events_are_counted_and_end_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run() -> None:
        brain = Brain()
        async with bridged(monkeypatch, brain) as call:
            await until(lambda: bool(brain.sockets))
            for text in ("", "[]", "{}", "[" * 10_000, '{"type":7}'):
                await brain.sockets[0].send_str(text)
            await brain.sockets[0].send_bytes(b"x")
            await brain.say("rate_limits.updated")
            await until(lambda: bool(call.told("rate_limits.updated")))
            assert call.count(TransceiverCounter.BACKEND_DROPPED_NO_EVENT) == 6

    asyncio.run(run())


# ---- the start -----------------------------------------------------------------------------------


def settings(**more: Any) -> TransceiverSettings:
    plain = TransceiverSettings("/tmp", 0, "", "", 1, candidates=[], max_sessions=1)
    return replace(plain, backend="ws://127.0.0.1/", **more)


def test_a_key_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(AppError, match="--backend-key-file"):
        backend_app(settings(backend_key_file=str(tmp_path / "none")))


def test_turn_detection_needs_its_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)

    with pytest.raises(AppError, match=r"voicerelay\[vad\]"):
        backend_app(settings(backend_vad=True))
