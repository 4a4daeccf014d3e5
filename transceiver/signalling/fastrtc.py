"""What FastRTC's clients speak, for plain agents; they name their calls themselves (webrtc_id)."""

import contextlib
import json
from collections.abc import Iterable
from typing import Any

from aiohttp import web

from voicerelay.transceiver.agent import SessionClosed
from voicerelay.transceiver.conversation import Conversation
from voicerelay.transceiver.directory import DirectoryError
from voicerelay.transceiver.session import LiveSession
from voicerelay.transceiver.signalling.calls import Calls, Refused, json_of
from voicerelay.transceiver.signalling.owners import MAX_NAME_CHARS

CHANNEL = "text"
_NOT_FOR_AGENTS = ("sdp", "type", "webrtc_id")
# Those that the contract has a word for; others keep ours.
_WORDS = {
    "server_full": "concurrency_limit_reached",
    "too_many_sessions": "concurrency_limit_reached",
}


class FastRtc:
    """The contract's routes."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._ours: dict[str, LiveSession] = {}  # by webrtc_id

    def routes(self) -> Iterable[web.RouteDef]:
        return [web.post("/webrtc/offer", self._post)]

    async def _post(self, request: web.Request) -> web.Response:
        """An offer, or a candidate of an earlier one."""
        body = await json_of(request)
        if isinstance(body, web.Response):
            return body
        name = body.get("webrtc_id")
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_CHARS:
            return failed("malformed_webrtc_id")
        if body.get("type") == "ice-candidate":
            return await self._candidate(request, name)
        if body.get("type") != "offer" or not isinstance(body.get("sdp"), str):
            return failed("malformed_offer")
        return await self._offer(request, name, body)

    async def _candidate(self, request: web.Request, name: str) -> web.Response:
        """Accepted and ignored: we learn the client from its checks, and resolve no name."""
        session = self._ours.get(name)
        if session is not None and self._calls.ours(request, session.id) is session:
            return web.json_response({"status": "success"})
        passed = await self._calls.pass_to(self._calls.names.owner(name), request)
        return passed or failed("unknown_connection")

    async def _offer(self, request: web.Request, name: str, body: dict[str, Any]) -> web.Response:
        if self._calls.names.owner(name) is not None:
            return failed("connection_already_exists")
        passed = await self._calls.pass_to_emptier(request)
        if passed is not None:
            return passed
        about = {k: v for k, v in body.items() if k not in _NOT_FOR_AGENTS} or None
        try:
            session, answer = await self._calls.begin(request, body["sdp"], about)
        except Refused as exc:
            return failed(_WORDS.get(exc.code, exc.code), str(exc))
        try:
            key = await self._calls.names.claim(name)
        except DirectoryError:
            session.end("its webrtc_id cannot be had")
            return failed("connection_already_exists")
        self._ours[name] = session
        self._calls.when_ended(session, key, then=lambda: self._forget(name, session))
        session.use(Farewell(session))
        return web.json_response({"sdp": answer, "type": "answer"})

    def _forget(self, name: str, session: LiveSession) -> None:
        if self._ours.get(name) is session:
            del self._ours[name]


class Farewell:
    """FastRTC's data channel: the client says "handshake", and hears when the stream ends."""

    def __init__(self, session: Conversation) -> None:
        self._session = session

    def received(self, label: str, data: str | bytes) -> bool:
        return label == CHANNEL and data == "handshake"

    def leaving(self) -> None:
        with contextlib.suppress(SessionClosed, ValueError):  # the channel has gone, or is full
            self._session.send_message(json.dumps({"type": "end_stream", "data": ""}), CHANNEL)


def failed(error: str, message: str = "") -> web.Response:
    """The contract's own way to say no: HTTP 200."""
    meta = {"error": error} | ({"message": message} if message else {})
    return web.json_response({"status": "failed", "meta": meta})
