"""What a Python agent has of a Realtime call: its configuration, events, speaking and function calls."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from tests.unit.transceiver.test_channels import FakeChannel
from tests.unit.transceiver.test_session import WAIT_S, host, listen, talking, until
from voicerelay.shm.counters import TransceiverCounter
from voicerelay.transceiver.agent import SessionClosed
from voicerelay.transceiver.realtime.event_channel import MAX_HELD_EVENTS
from voicerelay.transceiver.realtime.oai import CHANNEL
from voicerelay.transceiver.realtime.session import (
    MAX_PENDING_CALLS,
    MAX_UNREAD_EVENTS,
    RealtimeSession,
)
from voicerelay.transceiver.session import LiveSession

RATE = 24_000


class Client:
    """The other end of `oai-events`."""

    def __init__(self, session: LiveSession) -> None:
        self._session = session
        self.channel = FakeChannel(CHANNEL)

    def open(self) -> None:
        assert self._session.channel_opened(self.channel)

    def send(self, kind: str, **fields: Any) -> None:
        self._session.message_received(CHANNEL, json.dumps({"type": kind} | fields))

    def events(self, kind: str = "") -> list[dict[str, Any]]:
        events = [json.loads(text) for text in self.channel.sent]
        return [event for event in events if kind in ("", event["type"])]

    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events()]


@asynccontextmanager
async def realtime(
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[tuple[RealtimeSession, Client]]:
    """A call with keys, whose client has opened its channel."""

    async with host() as here:
        session, _ = await talking(here, monkeypatch, listen)
        client = Client(session)
        made = RealtimeSession.of(session)
        client.open()
        yield made, client


def test_events_wait_for_the_channel_in_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with host() as here:
            session, _ = await talking(here, monkeypatch, listen)
            one, client = RealtimeSession.of(session), Client(session)
            for _ in range(MAX_HELD_EVENTS):
                one.send({"type": "x"})

            client.open()

            assert client.kinds() == ["session.created"] + ["x"] * (MAX_HELD_EVENTS - 1)
            assert here.block.get(TransceiverCounter.EVENTS_DROPPED_NO_CHANNEL) == 1
            assert RealtimeSession.of(session) is one

    asyncio.run(run())


def test_an_update_is_answered_before_anybody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with realtime(monkeypatch) as (one, client):
            client.send("session.update", session={"audio": {"output": {"voice": "x"}}})

            (updated,) = client.events("session.updated")
            assert updated["session"]["audio"] == {"output": {"voice": "x"}}
            assert one.config["audio"] == {"output": {"voice": "x"}}
            assert (await anext(one.events()))["type"] == "session.update"

    asyncio.run(run())


def test_bad_events_are_answered_and_end_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with realtime(monkeypatch) as (_, client):
            client.send("who.knows")
            client.send("session.update")
            client.send("conversation.item.create", item=7)

            codes = [event["error"]["code"] for event in client.events("error")]
            assert codes == ["unknown_event", "invalid_session", "invalid_item"]

    asyncio.run(run())


def test_an_agent_that_does_not_read_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with realtime(monkeypatch) as (_, client):
            for _ in range(MAX_UNREAD_EVENTS):
                client.send("response.create")
            assert not client.events("error")
            client.send("response.create", event_id="e")

            (error,) = client.events("error")
            assert error["error"]["code"] == "too_many_events"
            assert error["error"]["event_id"] == "e"

    asyncio.run(run())


def test_saying_something_is_a_whole_response(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with realtime(monkeypatch) as (one, client):
            assert await one.say(np.zeros(RATE // 10, np.int16), RATE, "hm")

            kinds = client.kinds()
            order = ["response.created", "response.output_item.added"]
            order += ["output_audio_buffer.started", "output_audio_buffer.stopped"]
            order += ["response.output_audio.done", "response.done"]
            assert [kind for kind in kinds if kind in order] == order
            (done,) = client.events("response.done")
            assert done["response"]["status"] == "completed"
            assert done["response"]["output"][0]["content"][0]["transcript"] == "hm"

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["response.cancel", "output_audio_buffer.clear"])
def test_an_interruption_says_what_was_heard(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    async def run() -> None:
        async with realtime(monkeypatch) as (one, client):
            saying = asyncio.ensure_future(one.say(np.zeros(RATE * 5, np.int16), RATE))
            await until(lambda: one._session.stats().played_ms >= 60)

            client.send(kind)

            async with asyncio.timeout(WAIT_S):
                assert not await saying
            (truncated,) = client.events("conversation.item.truncated")
            assert 60 <= truncated["audio_end_ms"] < 5000
            (done,) = client.events("response.done")
            assert done["response"]["status"] == "cancelled"
            assert len(client.events("output_audio_buffer.cleared")) == 1
            assert not client.events("output_audio_buffer.stopped")
            # and with nothing to interrupt, nothing more is said
            client.send(kind)
            assert len(client.events("output_audio_buffer.cleared")) == 1

    asyncio.run(run())


def test_a_function_is_called_and_gives_its_output(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with realtime(monkeypatch) as (one, client):
            calling = asyncio.ensure_future(one.call("weather", {"where": "here"}))
            await until(lambda: bool(client.events("response.function_call_arguments.done")))
            (asked,) = client.events("response.function_call_arguments.done")
            assert (asked["name"], json.loads(asked["arguments"])) == ("weather", {"where": "here"})

            output = {"type": "function_call_output", "call_id": asked["call_id"], "output": "rain"}
            client.send("conversation.item.create", item=output)

            async with asyncio.timeout(WAIT_S):
                assert await calling == "rain"
            # an output for nobody is only an item
            client.send("conversation.item.create", item=output)

    asyncio.run(run())


def test_calls_end_with_their_time_their_number_and_the_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run() -> None:
        async with realtime(monkeypatch) as (one, _):
            with pytest.raises(TimeoutError):
                await one.call("slow", {}, timeout_s=0)
            calls = [asyncio.ensure_future(one.call("x", {})) for _ in range(MAX_PENDING_CALLS)]
            await asyncio.sleep(0)
            with pytest.raises(ValueError, match="wait already"):
                await one.call("one too many", {})

            one._session.close()

            for call in calls:
                with pytest.raises(SessionClosed):
                    await call
            assert [event async for event in one.events()] == []

    asyncio.run(run())
