"""Passes a request on to the transceiver that owns the session, or to one that has room."""

import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
from aiohttp import web

from voicerelay.shm.counters import Counters, TransceiverCounter
from voicerelay.shm.rundir import http_socket

PROXY_TIMEOUT_S = 3.0
DRAINING = TransceiverCounter.DRAINING
LIVELY_S = 0.5  # a heartbeat older than this: do not hand it a call
# Of one connection (RFC 9110 §7.6.1), or of a body as it was sent; the agent sees all the others.
_NOT_PASSED_ON = {
    *("connection", "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer"),
    *("transfer-encoding", "upgrade", "content-encoding", "content-length", "expect"),
}
_RESPONSE_HEADERS = ("Content-Type", "Location", "ETag", "Link", "Retry-After", "Allow")


class SiblingGone(Exception):
    """The other transceiver does not answer."""


class Siblings:
    """The other transceivers of this host."""

    def __init__(self, run_dir: Path, slot: int) -> None:
        self._run_dir = run_dir
        self._slot = slot
        self._clients: dict[int, aiohttp.ClientSession] = {}

    def with_room(self, counters: Counters, below: int) -> Iterator[int]:
        """Slots of lively siblings with room and fewer than `below` sessions, emptiest first."""
        oldest_beat = time.monotonic_ns() - int(LIVELY_S * 1e9)
        loads = []
        for slot, block in counters.transceivers():
            sessions = block.get(TransceiverCounter.SESSIONS)
            room = min(below, block.get(TransceiverCounter.MAX_SESSIONS))
            closed = block.get(TransceiverCounter.OVERLOADED) or block.get(DRAINING)
            if closed or block.heartbeat_ns <= oldest_beat:
                continue
            if slot != self._slot and sessions < room:
                loads.append((sessions, slot))
        return (slot for _, slot in sorted(loads))

    async def pass_on(self, slot: int, request: web.Request) -> web.Response:
        """The sibling's answer to the same request. Raises SiblingGone."""
        body = await request.read()
        headers = [(k, v) for k, v in request.headers.items() if k.lower() not in _NOT_PASSED_ON]
        try:
            async with self.client(slot).request(
                request.method,
                f"http://sibling{request.path_qs}",
                data=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=PROXY_TIMEOUT_S),
            ) as answer:
                kept = {k: answer.headers[k] for k in _RESPONSE_HEADERS if k in answer.headers}
                return web.Response(status=answer.status, body=await answer.read(), headers=kept)
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            raise SiblingGone from exc

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()

    def client(self, slot: int) -> aiohttp.ClientSession:
        """Speaks HTTP with a sibling, in whatever time that takes. Raises SiblingGone."""
        if not http_socket(self._run_dir, slot).exists():
            raise SiblingGone  # a guessed id must not make a client for its slot
        client = self._clients.get(slot)
        if client is None:
            connector = aiohttp.UnixConnector(str(http_socket(self._run_dir, slot)))
            client = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,  # what is passed on stays as it is
            )
            self._clients[slot] = client
        return client
