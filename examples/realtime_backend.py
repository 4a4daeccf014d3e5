"""A small scripted server of the Realtime WebSocket protocol: `python -m examples.realtime_backend --port 9000`.

Then `voicerelay start --backend ws://127.0.0.1:9000/v1/realtime`. It keeps what the caller says until he is
silent, or until `response.create`, and answers with the same voice (`--script echo`), with a tone that lasts
five seconds (`--script tone`), or by having the client call its first tool (`--script function`).
"""

import argparse
import asyncio
import base64
import json
import secrets
from typing import Any

import numpy as np
from aiohttp import WSMsgType, web

RATE = 24_000  # Hz, mono int16
BYTES_PER_MS = RATE * 2 // 1000
DELTA_BYTES = 200 * BYTES_PER_MS
VOICED_LEVEL = 500  # RMS; a real server has a real detector
STOP_MS = 500  # of silence end a turn
MAX_TURN_BYTES = 60_000 * BYTES_PER_MS
TONE_HZ, TONE_S, TONE_LEVEL = 600, 5, 8000

Event = dict[str, Any]


def new_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(8)}"


class Conversation:
    """One connection, which is one call."""

    def __init__(
        self, socket: web.WebSocketResponse, script: str, detects: bool, delta_s: float
    ) -> None:
        self.socket = socket
        self.script = script
        self.delta_s = delta_s  # between two pieces of an answer
        self.config: Event = {"type": "realtime", "object": "realtime.session"}
        self.detects = detects  # turns
        self.said = bytearray()
        self.heard_ms = 0
        self.silent_ms = 0
        self.turn: str | None = None  # the item that the caller is speaking
        self.response: str | None = None
        self.speaking: asyncio.Task[None] | None = None
        self.items: list[Event] = []

    async def send(self, kind: str, **fields: Any) -> None:
        await self.socket.send_str(json.dumps({"type": kind, "event_id": new_id("event")} | fields))

    async def run(self) -> None:
        await self.send("session.created", session=self.config)
        try:
            async for message in self.socket:
                if message.type is WSMsgType.TEXT:
                    await self.take(json.loads(message.data))
        finally:
            if self.speaking is not None:
                self.speaking.cancel()

    async def take(self, event: Event) -> None:
        """What a client sends."""
        match event["type"]:
            case "session.update":
                self.config |= event["session"]
                await self.send("session.updated", session=self.config)
            case "input_audio_buffer.append":
                await self.hear(base64.b64decode(event["audio"]))
            case "input_audio_buffer.commit":
                await self.commit(self.turn or new_id("item"))
            case "response.create":
                await self.respond()
            case "response.cancel":
                if self.response is None:
                    await self.fail("response_cancel_not_active", "nothing to cancel", event)
                else:
                    await self.cancel()
            case "conversation.item.truncate":
                told = {k: event[k] for k in ("item_id", "content_index", "audio_end_ms")}
                await self.send("conversation.item.truncated", **told)
            case "conversation.item.create":
                item = {"id": new_id("item")} | event["item"]
                self.items.append(item)
                await self.send("conversation.item.added", item=item)
                await self.send("conversation.item.done", item=item)
            case "conversation.item.retrieve":
                found = [item for item in self.items if item["id"] == event["item_id"]]
                if found:
                    await self.send("conversation.item.retrieved", item=found[0])
            case "input_audio_buffer.clear":
                self.said.clear()
                await self.send("input_audio_buffer.cleared")
            case kind:
                await self.fail("unknown_event", f"{kind} is not known here", event)

    async def fail(self, code: str, message: str, event: Event) -> None:
        error = {"type": "invalid_request_error", "code": code, "message": message}
        await self.send("error", error=error | {"event_id": event.get("event_id")})

    async def hear(self, pcm: bytes) -> None:
        """A turn begins with the first loud piece and ends after half a second of silence."""
        length_ms = len(pcm) // BYTES_PER_MS
        self.heard_ms += length_ms
        samples = np.frombuffer(pcm, "<i2").astype(np.float64)
        loud = bool(len(samples)) and np.sqrt((samples**2).mean()) >= VOICED_LEVEL
        self.silent_ms = 0 if loud else self.silent_ms + length_ms
        if len(self.said) < MAX_TURN_BYTES and (self.turn or not self.detects):
            self.said += pcm
        if not self.detects:
            return
        if loud and self.turn is None:
            self.turn = new_id("item")
            self.said += pcm
            began = {"audio_start_ms": self.heard_ms - length_ms, "item_id": self.turn}
            await self.send("input_audio_buffer.speech_started", **began)
            if self.response is not None:
                await self.cancel()
        elif self.turn is not None and self.silent_ms >= STOP_MS:
            turn, self.turn = self.turn, None
            ended = {"audio_end_ms": self.heard_ms, "item_id": turn}
            await self.send("input_audio_buffer.speech_stopped", **ended)
            await self.commit(turn)
            await self.respond()

    async def commit(self, item_id: str) -> None:
        await self.send("input_audio_buffer.committed", item_id=item_id, previous_item_id=None)
        content = [{"type": "input_audio", "transcript": None}]
        item = {"id": item_id, "type": "message", "role": "user", "content": content}
        self.items.append(item)
        await self.send("conversation.item.added", item=item)

    async def respond(self) -> None:
        """The whole answer as fast as it can be made: pacing is not a backend's business."""
        self.response = new_id("resp")
        response = {"id": self.response, "object": "realtime.response", "output": []}
        await self.send("response.created", response=response | {"status": "in_progress"})
        tools = self.config.get("tools") or [{"name": "look_up"}]
        answered = any(item["type"] == "function_call_output" for item in self.items)
        if self.script == "function" and not answered:
            await self.call_function(tools[0]["name"])
        else:
            said, self.said = bytes(self.said), bytearray()
            pcm = tone() if self.script == "tone" else said
            self.speaking = asyncio.create_task(self.speak(pcm))

    async def cancel(self) -> None:
        if self.speaking is not None:
            self.speaking.cancel()
        await self.finish([], "cancelled")

    async def speak(self, pcm: bytes) -> None:
        item = {"id": new_id("item"), "type": "message", "role": "assistant"}
        where = {"response_id": self.response, "output_index": 0}
        begun = item | {"status": "in_progress", "content": []}
        await self.send("response.output_item.added", item=begun, **where)
        await self.send("conversation.item.added", item=begun)
        where |= {"item_id": item["id"], "content_index": 0}
        for start in range(0, len(pcm), DELTA_BYTES):
            delta = base64.b64encode(pcm[start : start + DELTA_BYTES]).decode()
            await self.send("response.output_audio.delta", delta=delta, **where)
            await asyncio.sleep(self.delta_s)
        transcript = f"{len(pcm) // BYTES_PER_MS} ms"
        await self.send("response.output_audio_transcript.delta", delta=transcript, **where)
        await self.send("response.output_audio_transcript.done", transcript=transcript, **where)
        await self.send("response.output_audio.done", **where)
        content = [{"type": "output_audio", "transcript": transcript}]
        await self.finish([item | {"status": "completed", "content": content}], "completed")

    async def call_function(self, name: str) -> None:
        item = {"id": new_id("item"), "type": "function_call", "call_id": new_id("call")}
        item |= {"name": name, "arguments": "{}", "status": "completed"}
        where = {"response_id": self.response, "output_index": 0}
        await self.send("response.output_item.added", item=item, **where)
        await self.send(
            "response.function_call_arguments.done",
            item_id=item["id"],
            call_id=item["call_id"],
            name=name,
            arguments="{}",
            **where,
        )
        await self.finish([item], "completed")

    async def finish(self, items: list[Event], status: str) -> None:
        response_id, self.response = self.response, None
        for item in items:
            self.items.append(item)
            where = {"response_id": response_id, "output_index": 0}
            await self.send("response.output_item.done", item=item, **where)
            await self.send("conversation.item.done", item=item)
        response = {"id": response_id, "object": "realtime.response", "output": items}
        await self.send("response.done", response=response | {"status": status})


def tone() -> bytes:
    moments = np.arange(RATE * TONE_S) / RATE
    return bytes((np.sin(2 * np.pi * TONE_HZ * moments) * TONE_LEVEL).astype("<i2").tobytes())


def application(
    script: str, detects: bool = True, key: str = "", delta_s: float = 0.0
) -> web.Application:
    """One WebSocket route; with a key, only who has it may come."""

    async def connect(request: web.Request) -> web.WebSocketResponse:
        if key and request.headers.get("Authorization") != f"Bearer {key}":
            raise web.HTTPUnauthorized
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await Conversation(socket, script, detects, delta_s).run()
        return socket

    app = web.Application()
    app.router.add_get("/v1/realtime", connect)
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--script", choices=("echo", "tone", "function"), default="echo")
    parser.add_argument("--no-vad", action="store_true", help="detect no turns")
    parser.add_argument("--delta-ms", type=int, default=0, help="between two pieces of an answer")
    parser.add_argument("--key", default="", help="who connects must have it")
    given = parser.parse_args()

    async def serve() -> None:
        app = application(given.script, not given.no_vad, given.key, given.delta_ms / 1000)
        runner = web.AppRunner(app)
        await runner.setup()
        # Others may share the port, and take over when this one goes.
        await web.TCPSite(runner, "127.0.0.1", given.port, reuse_port=True).start()
        print(f"ready on ws://127.0.0.1:{given.port}/v1/realtime", flush=True)  # noqa: T201
        await asyncio.Event().wait()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
