"""An ASGI app behind all transceivers: each request is handled where its call lives.

Offers go to a sibling with fewer calls, as WHIP's do; what names a call goes to the call's owner.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL

from voicerelay.shm.counters import Counters, TransceiverCounter
from voicerelay.shm.region import MAX_CAPACITY
from voicerelay.shm.table import TableReader
from voicerelay.transceiver.agent import AsgiApp
from voicerelay.transceiver.registry import Registry
from voicerelay.transceiver.signalling.owners import Mentioned, find_owner, mentioned
from voicerelay.transceiver.signalling.problem import RETRY_AFTER_S
from voicerelay.transceiver.signalling.siblings import SiblingGone, Siblings
from voicerelay.transceiver.stock import StockCall, begun_by_request

MAX_READ_BYTES = 256 * 1024  # a body of more than this goes by unread
FAIR_DIFFERENCE = 1  # calls more than a sibling before an offer is handed on
_HOP_BY_HOP = {
    *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te"),
    *(b"trailer", b"transfer-encoding", b"upgrade", b"content-length"),
}

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass(frozen=True)
class Neighbourhood:
    """What is needed to know where a request belongs."""

    slot: int
    registry: Registry
    siblings: Siblings
    counters: Counters
    routes: TableReader


class OwnerFirst:
    """Wraps the user's ASGI app; itself one."""

    def __init__(self, app: AsgiApp, around: Neighbourhood) -> None:
        self._app = app
        self._around = around

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body, receive = await _peek(scope, receive)
        said = mentioned(body or b"", scope["query_string"])
        from_sibling = scope["server"] is not None and scope["server"][1] is None  # a Unix socket
        if body is not None and not from_sibling:
            for slot in self._elsewhere(said):
                if await self._pass_on(slot, scope, body, receive, send):
                    return
        if said.offers and self._owned(said) is None and not self._has_room():
            around = self._around
            around.counters.transceiver(around.slot).add(TransceiverCounter.OFFERS_REFUSED)
            await _refuse(send)
            return
        await self._handle(said, scope, receive, send)

    def _owned(self, said: Mentioned) -> int | None:
        return find_owner(self._around.routes, said.keys)

    def _has_room(self) -> bool:
        return self._around.registry.available and not self._around.registry.full

    def _elsewhere(self, said: Mentioned) -> Iterable[int]:
        """Slots that should handle this rather than we: the owner, or emptier ones."""
        owner = self._owned(said)
        if owner is not None:
            return () if owner == self._around.slot else (owner,)
        if not said.offers:
            return ()
        registry = self._around.registry
        below = MAX_CAPACITY if registry.full else registry.sessions - FAIR_DIFFERENCE
        return self._around.siblings.with_room(self._around.counters, below)

    async def _handle(self, said: Mentioned, scope: Message, receive: Receive, send: Send) -> None:
        """Run the app; the calls it begins are found by what request and answer name them."""
        begun: list[StockCall] = []
        answer = bytearray()

        async def claim_and_send(message: Message) -> None:
            if begun and message["type"] == "http.response.body":
                if len(answer) < MAX_READ_BYTES:
                    answer.extend(message.get("body", b""))
                if not message.get("more_body"):
                    keys = said.keys | mentioned(bytes(answer)).keys
                    for call in begun:
                        await asyncio.gather(*(call.claim(key) for key in keys))
            await send(message)

        token = begun_by_request.set(begun)
        try:
            await self._app(scope, receive, claim_and_send)
        finally:
            begun_by_request.reset(token)

    async def _pass_on(
        self, slot: int, scope: Message, body: bytes, receive: Receive, send: Send
    ) -> bool:
        """Let a sibling answer; False when it has gone or has no room either."""
        path = scope.get("raw_path") or scope["path"].encode()
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        try:
            answer = await self._around.siblings.client(slot).request(
                scope["method"],
                URL("http://sibling" + (path + query).decode("latin-1"), encoded=True),
                data=body or None,
                headers=[
                    (name.decode("latin-1"), value.decode("latin-1"))
                    for name, value in scope["headers"]
                    if name.lower() not in _HOP_BY_HOP
                ],
                allow_redirects=False,
            )
        except (SiblingGone, aiohttp.ClientError, OSError):
            return False
        async with answer:
            if answer.status == 503:
                return False
            await _relay(answer, receive, send)
        return True


async def _peek(scope: Message, receive: Receive) -> tuple[bytes | None, Receive]:
    """The body, if it is small and of known size, else None; and a `receive` that brings it again."""
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"0")
    if b"transfer-encoding" in headers or not length.isdigit() or int(length) > MAX_READ_BYTES:
        return None, receive
    body, more = b"", int(length) > 0
    seen: list[Message] = []
    while more:
        message = await receive()
        seen.append(message)
        body += message.get("body", b"")
        more = message["type"] == "http.request" and message.get("more_body", False)
    seen.reverse()

    async def again() -> Message:
        return seen.pop() if seen else await receive()

    return body, again


async def _relay(answer: aiohttp.ClientResponse, receive: Receive, send: Send) -> None:
    """Bring a sibling's answer as it comes, until it ends or the client has gone."""

    async def bring() -> None:
        headers = [(n, v) for n, v in answer.raw_headers if n.lower() not in _HOP_BY_HOP]
        length = answer.headers.get("Content-Length")
        if length is not None:
            headers.append((b"content-length", length.encode()))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        try:
            async for chunk in answer.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except aiohttp.ClientError:
            return  # the sibling has gone amid its answer: it stays cut off
        await send({"type": "http.response.body", "body": b""})

    async def client_leaves() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(bring()), asyncio.ensure_future(client_leaves())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _refuse(send: Send) -> None:
    message = "the server is full, try again in a moment"
    body = json.dumps({"error": {"code": "server_full", "message": message}}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"retry-after", str(RETRY_AFTER_S).encode()),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
