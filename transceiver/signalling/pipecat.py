"""What Pipecat's SmallWebRTC client speaks, for plain agents; a pc_id is a session's public id."""

import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

from aiohttp import web

from voicerelay.transceiver.registry import session_id, slot_of
from voicerelay.transceiver.signalling.access import CALLER
from voicerelay.transceiver.signalling.calls import Calls, Refused, json_of, no_session, text_of
from voicerelay.transceiver.signalling.iceservers import IceServer
from voicerelay.transceiver.signalling.problem import problem
from voicerelay.transceiver.signalling.rtvi import Rtvi

MAX_STARTS = 1000  # that wait for their offer
MAX_START_BYTES = 16 * 1024
START_TTL_S = 300.0


class Pipecat:
    """The contract's routes."""

    def __init__(self, calls: Calls, servers: Sequence[IceServer] = ()) -> None:
        self._calls = calls
        self._servers = servers
        # Who began, until when, and what the agent is to know.
        self._starts: OrderedDict[str, tuple[str, float, Any]] = OrderedDict()

    def routes(self) -> Iterable[web.RouteDef]:
        started = "/sessions/{start}/api/offer"
        return [
            web.post("/start", self._start),
            web.post("/api/offer", self._offer),
            web.patch("/api/offer", self._candidates),
            web.post(started, self._started_offer),
            web.patch(started, self._candidates),
        ]

    async def _start(self, request: web.Request) -> web.Response:
        """Reserve a place for an offer; here, where its call will be, or at a sibling with room."""
        body = await json_of(request) if request.body_exists else {}
        if isinstance(body, web.Response):
            return body
        if len(await text_of(request)) > MAX_START_BYTES:
            return problem(413, "too_large", f"a start has at most {MAX_START_BYTES} bytes")
        passed = await self._calls.pass_to_emptier(request)
        if passed is not None:
            return passed
        registry = self._calls.registry
        start = session_id(registry.node, registry.slot)
        self._starts[start] = request[CALLER].key, time.monotonic() + START_TTL_S, body.get("body")
        if len(self._starts) > MAX_STARTS:
            self._starts.popitem(last=False)
        answer: dict[str, Any] = {"sessionId": start}
        if self._servers:
            user, now = request[CALLER].subject or "voicerelay", time.time()
            answer["iceConfig"] = {
                "iceServers": [server.configuration(user, now) for server in self._servers]
            }
        return web.json_response(answer)

    async def _started_offer(self, request: web.Request) -> web.Response:
        start = request.match_info["start"]
        passed = await self._calls.pass_to(slot_of(start), request)
        if passed is not None:
            return passed
        key, until, about = self._starts.get(start, ("", 0.0, None))
        known = key == request[CALLER].key and time.monotonic() < until
        return await self._answer(request, about, None if known else "there is no such start")

    async def _offer(self, request: web.Request) -> web.Response:
        return await self._answer(request, None, None, spread=True)

    async def _answer(
        self, request: web.Request, about: Any, objection: str | None, spread: bool = False
    ) -> web.Response:
        """Answer an offer. objection: why no new call may begin by it."""
        body = await json_of(request)
        if isinstance(body, web.Response):
            return body
        sdp, pc_id = body.get("sdp"), body.get("pc_id")
        if body.get("type") != "offer" or not isinstance(sdp, str):
            return problem(400, "no_offer", "type must be offer, and sdp a string")
        if isinstance(pc_id, str):
            owner = await self._calls.pass_to(slot_of(pc_id), request)
            if owner is not None:
                return owner
        elif spread:
            passed = await self._calls.pass_to_emptier(request)
            if passed is not None:
                return passed
        before = self._calls.ours(request, pc_id) if isinstance(pc_id, str) else None
        if before is None and objection is not None:
            return problem(404, "no_start", objection)
        try:
            if before is not None:
                fresh = body.get("restart_pc") is True
                session, answer = before, await self._calls.begin_again(before, sdp, fresh)
            else:
                known = body.get("requestData") or about
                session, answer = await self._calls.begin(request, sdp, known)
        except Refused as exc:
            return problem(exc.status, exc.code, str(exc))
        session.use(Rtvi(session))
        return web.json_response({"sdp": answer, "type": "answer", "pc_id": session.id})

    async def _candidates(self, request: web.Request) -> web.Response:
        """Accepted and ignored: we learn the client from its checks, and resolve no name."""
        body = await json_of(request)
        if isinstance(body, web.Response):
            return body
        pc_id = body.get("pc_id")
        if not isinstance(pc_id, str) or not isinstance(body.get("candidates", []), list):
            return problem(400, "malformed_candidates", "pc_id or candidates is missing")
        if self._calls.ours(request, pc_id) is not None:
            return web.json_response({"status": "success"})
        return await self._calls.pass_to(slot_of(pc_id), request) or no_session()
