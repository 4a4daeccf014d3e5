"""OpenAI Realtime for agents written in Python: configuration, events and function calls of a call."""

import asyncio
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from voicerelay.transceiver.agent import DEFAULT_PLAY_RATE, Session, SessionClosed
from voicerelay.transceiver.realtime.event_channel import EventChannel
from voicerelay.transceiver.realtime.oai import (
    CALLS_PATH,
    CHANNEL,
    BadEvent,
    Event,
    config_of,
    error_event,
    id_of,
    merged,
    new_id,
)
from voicerelay.transceiver.voice.unread import Unread

if TYPE_CHECKING:
    from voicerelay.transceiver.voice.pcm import PcmLike

MAX_UNREAD_EVENTS: Final = 256
MAX_PENDING_CALLS: Final = 16
CALL_TIMEOUT_S: Final = 30.0


class RealtimeSession(EventChannel):
    """What a Realtime client expects of the other side; `RealtimeSession.of(session)` gives the call's.

    session.created and session.updated go out by themselves, and `response.cancel` or
    `output_audio_buffer.clear` interrupts what is being said. The agent reads `events()`.
    """

    def __init__(self, session: Session) -> None:
        self._events: Unread[Event] = Unread(MAX_UNREAD_EVENTS, keep_oldest=True)
        self._calls: dict[str, asyncio.Future[str]] = {}
        self._response: dict[str, Any] | None = None  # being said now
        self._item_began_ms = 0
        self._turn = asyncio.Lock()  # one response at a time is said
        self.config: Event = {"type": "realtime"} | _asked_for(session)
        super().__init__(session, self._take_event)
        self.send({"type": "session.created", "session": self._described()})

    @classmethod
    def of(cls, session: Session) -> "RealtimeSession":
        """The one of this call; made if the client has not called by the Realtime contract."""
        found = session.channel_handler(CHANNEL)
        return found if isinstance(found, cls) else cls(session)

    def events(self) -> Unread[Event]:
        """What the client, or a sideband, sends; ends with the call.

        At most MAX_UNREAD_EVENTS wait for a slow agent, then new ones are answered with an error.
        """
        return self._events

    async def say(
        self, pcm: "PcmLike", rate: int = DEFAULT_PLAY_RATE, transcript: str = ""
    ) -> bool:
        """One spoken response with all its events; returns when it was sent, False if interrupted.

        pcm and rate: as for Session.play. A second one waits for the first. Raises SessionClosed.
        """
        async with self._turn:
            return await self._say(pcm, rate, transcript)

    async def _say(self, pcm: "PcmLike", rate: int, transcript: str) -> bool:
        item = {"id": new_id("item"), "type": "message", "role": "assistant"}
        response = self._begin_response()
        where = {"response_id": response["id"], "output_index": 0, "item_id": item["id"]}
        self._announce(response, item | {"status": "in_progress", "content": []})
        self._response, self._item_began_ms = where, self._session.stats().played_ms
        spoken = {"content_index": 0, **where}
        if transcript:
            self.send(
                {"type": "response.output_audio_transcript.delta", "delta": transcript} | spoken
            )
        self.send({"type": "output_audio_buffer.started", "response_id": response["id"]})
        try:
            await self._session.play(pcm, rate)
            await self._session.drain()
        except BaseException:
            self.interrupt()
            raise
        finally:
            finished = self._said(where, item, transcript)
        return finished

    def _said(self, where: Event, item: Event, transcript: str) -> bool:
        """The events at the end of a spoken response; whether all of it was said."""
        response, finished = {"id": where["response_id"]}, self._response is where
        spoken = {"content_index": 0, **where}
        if finished:
            self._response = None
            self.send({"type": "output_audio_buffer.stopped", "response_id": response["id"]})
        self.send(
            {"type": "response.output_audio_transcript.done", "transcript": transcript} | spoken
        )
        self.send({"type": "response.output_audio.done"} | spoken)
        content = [{"type": "output_audio", "transcript": transcript}]
        status = "completed" if finished else "incomplete"
        response |= {"object": "realtime.response"}
        self._finish(response, item | {"status": status, "content": content}, finished)
        return finished

    async def call(
        self, name: str, arguments: Mapping[str, Any], timeout_s: float = CALL_TIMEOUT_S
    ) -> str:
        """Have the client call one of its functions; its output.

        Raises TimeoutError, SessionClosed, and ValueError when MAX_PENDING_CALLS wait already.
        """
        if len(self._calls) >= MAX_PENDING_CALLS:
            raise ValueError(f"{MAX_PENDING_CALLS} function calls wait already")
        call_id, response, text = new_id("call"), self._begin_response(), json.dumps(arguments)
        item = {"id": new_id("item"), "type": "function_call", "call_id": call_id, "name": name}
        output: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._calls[call_id] = output
        try:
            self._announce(response, item | {"status": "in_progress", "arguments": ""})
            where = {"response_id": response["id"], "output_index": 0, "item_id": item["id"]}
            done = {"type": "response.function_call_arguments.done", "arguments": text}
            self.send(done | {"call_id": call_id, "name": name} | where)
            self._finish(response, item | {"status": "completed", "arguments": text}, True)
            async with asyncio.timeout(timeout_s):
                return await output
        finally:
            del self._calls[call_id]

    def interrupt(self) -> None:
        """Stop speaking at once, and tell the client what it has heard of it."""
        where, self._response = self._response, None
        self._session.interrupt()
        if where is None:
            return
        played_ms = self._session.stats().played_ms - self._item_began_ms
        self.send({"type": "output_audio_buffer.cleared", "response_id": where["response_id"]})
        truncated = {"item_id": where["item_id"], "content_index": 0, "audio_end_ms": played_ms}
        self.send({"type": "conversation.item.truncated"} | truncated)

    def closed(self) -> None:
        super().closed()
        self._events.close()
        for output in self._calls.values():
            if not output.done():
                output.set_exception(SessionClosed("the call has ended"))

    # ---- from the client ---------------------------------------------------------------------

    def _take_event(self, event: Event) -> None:
        kind = event["type"]
        if kind == "session.update":
            self.config = merged(self.config, config_of(event))
            self.send({"type": "session.updated", "session": self._described()})
        elif kind in ("response.cancel", "output_audio_buffer.clear"):
            self.interrupt()
        elif kind == "conversation.item.create":
            self._take_item(event)
        before = self._events.dropped
        self._events.put(event)
        if self._events.dropped != before:
            raise BadEvent("too_many_events", "the agent does not read its events", id_of(event))

    def _take_item(self, event: Event) -> None:
        item = event.get("item")
        if not isinstance(item, dict):
            raise BadEvent("invalid_item", "conversation.item.create needs an item", id_of(event))
        item.setdefault("id", new_id("item"))
        for kind in ("added", "done"):
            self.send({"type": f"conversation.item.{kind}", "item": item})
        waiting = self._calls.get(str(item.get("call_id")))
        if item.get("type") == "function_call_output" and waiting and not waiting.done():
            waiting.set_result(str(item.get("output", "")))

    # ---- to the client -----------------------------------------------------------------------

    def refuse(self, event: Event, code: str, message: str) -> None:
        """Answer one of the client's events with an `error`."""
        self.send(error_event(code, message, cause=id_of(event)))

    def _begin_response(self) -> dict[str, Any]:
        response = {"id": new_id("resp"), "object": "realtime.response", "output": []}
        self.send({"type": "response.created", "response": response | {"status": "in_progress"}})
        return response

    def _announce(self, response: Event, item: Event) -> None:
        where = {"response_id": response["id"], "output_index": 0}
        self.send({"type": "response.output_item.added", "item": item} | where)
        self.send({"type": "conversation.item.added", "item": item})

    def _finish(self, response: Event, item: Event, completed: bool) -> None:
        where = {"response_id": response["id"], "output_index": 0}
        self.send({"type": "response.output_item.done", "item": item} | where)
        self.send({"type": "conversation.item.done", "item": item})
        status = "completed" if completed else "cancelled"
        done = response | {"status": status, "output": [item]}
        self.send({"type": "response.done", "response": done})

    def _described(self) -> Event:
        return {"object": "realtime.session", "id": f"sess_{self._session.id[-24:]}"} | self.config


def _asked_for(session: Session) -> Event:
    """The configuration that came with the offer."""
    request = session.request
    if request.path != CALLS_PATH:
        return {}
    body = request.body if isinstance(request.body, dict) else {}
    model = request.query.get("model")
    return ({"model": model} if model else {}) | body
