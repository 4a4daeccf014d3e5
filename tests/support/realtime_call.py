"""A caller that speaks OpenAI Realtime over WebRTC: `oai-events`, and a voice that is loud or silent."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import aiohttp

from tests.support.client import PACKET_S, Call, CallRefused
from tests.support.voice_call import VoiceCall
from tests.support.voices import payloads, speech

PATIENCE_S = 15.0
RATE = 24_000
LOUD = payloads(speech(2.0, RATE), RATE)

Event = dict[str, Any]


class RealtimeCall(VoiceCall):
    """`events`: all that came, with the time of each in `at`. `session`: sent beside the offer."""

    path = "/v1/realtime/calls"

    def __init__(
        self, url: str, *, query: str = "", token: str = "", session: Event | None = None
    ) -> None:
        super().__init__(url)
        self.query, self.session = query, session
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.events: list[Event] = []
        self._came = asyncio.Event()
        self.talking: asyncio.Task[None] | None = None
        self.loud = False

    async def connect(
        self,
        http: aiohttp.ClientSession,
        mangle: Callable[[str], str] = str,
        mangle_answer: Callable[[str], str] = str,
    ) -> None:
        self.channel = self.pc.createDataChannel("oai-events")
        opened = asyncio.Event()
        self.channel.on("open", opened.set)
        self.channel.on("message", self._on_message)
        await Call.connect(self, http, mangle, mangle_answer)
        async with asyncio.timeout(PATIENCE_S):
            await opened.wait()

    async def offer(self, http: aiohttp.ClientSession, sdp: str) -> str:
        """Raises CallRefused."""
        headers = dict(self.headers)
        data: Any = sdp
        if self.session is None:
            headers["Content-Type"] = "application/sdp"
        else:
            data = aiohttp.FormData()
            data.add_field("sdp", sdp, content_type="application/sdp")
            data.add_field("session", json.dumps(self.session), content_type="application/json")
        url = f"{self.url}{self.path}{self.query}"
        async with http.post(url, data=data, headers=headers) as response:
            if response.status != 201:
                raise CallRefused(response.status, await response.json())
            self.resource = response.headers["Location"]
            return await response.text()

    @property
    def call_id(self) -> str:
        return self.resource.rpartition("/")[2]

    async def hang_up(self, http: aiohttp.ClientSession) -> int:
        async with http.post(f"{self.url}{self.resource}/hangup") as response:
            return response.status

    def send_event(self, kind: str, **fields: Any) -> None:
        self.channel.send(json.dumps({"type": kind} | fields))

    async def event(self, kind: str, since: int = 0) -> Event:
        """The first of that type from number `since` on; waits for it."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                found = [event for event in self.events[since:] if event["type"] == kind]
                if found:
                    return found[0]
                self._came.clear()
                await self._came.wait()

    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]

    def begin_talking(self) -> None:
        """A packet every 20 ms from now on, speech while `loud`, else silence."""
        self.talking = asyncio.ensure_future(self._talk())

    async def close(self) -> None:
        if self.talking is not None:
            self.talking.cancel()
            await asyncio.gather(self.talking, return_exceptions=True)
        await super().close()

    async def _talk(self) -> None:
        start, number = time.monotonic(), 0
        silence = payloads(speech(1.0, RATE) * 0, RATE)
        while True:
            await asyncio.sleep(max(0.0, start + number * PACKET_S - time.monotonic()))
            await self.send((LOUD if self.loud else silence)[number % len(silence)])
            number += 1

    def _on_message(self, data: str | bytes) -> None:
        self.events.append(json.loads(data) | {"at": time.monotonic()})
        self._came.set()
