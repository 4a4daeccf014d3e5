"""HTTP in every transceiver: WHIP with a duplex answer (RFC 9725), demo page, session figures."""

import asyncio
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

from aiohttp import web

from voicerelay.shm.counters import Block, Counters, TransceiverCounter
from voicerelay.shm.region import MAX_CAPACITY
from voicerelay.transceiver.agent import Request
from voicerelay.transceiver.directory import DirectoryError
from voicerelay.transceiver.lite import HOST_PRIORITY
from voicerelay.transceiver.offer import MAX_OFFER_BYTES, OfferError, check_offer
from voicerelay.transceiver.problem import problem, problems
from voicerelay.transceiver.registry import Registry, ServerFull, slot_of
from voicerelay.transceiver.sdpfrag import (
    MAX_FRAGMENT_BYTES,
    Fragment,
    FragmentError,
    build_fragment,
    parse_fragment,
)
from voicerelay.transceiver.seam import NotAcceptable
from voicerelay.transceiver.session import LiveSession
from voicerelay.transceiver.siblings import SiblingGone, Siblings

FAIR_DIFFERENCE = 1  # calls more than a sibling before an offer is handed on
SDP = "application/sdp"
SDP_FRAGMENT = "application/trickle-ice-sdpfrag"

BODY_TIMEOUT_S = 5.0  # a client that is slower than this with 64 kB is none

Handler = Callable[[web.Request, LiveSession], Awaitable[web.Response]]


class Signalling:
    """Makes the aiohttp applications: one for clients, one for siblings on the Unix socket."""

    def __init__(
        self,
        registry: Registry,
        siblings: Siblings,
        counters: Counters,
        block: Block,
        info: dict[str, Any],
    ) -> None:
        self._registry = registry
        self._siblings = siblings
        self._counters = counters
        self._block = block
        self._info = info
        self._page = files("voicerelay.transceiver").joinpath("page/index.html").read_text("utf-8")

    def application(self, internal: bool) -> web.Application:
        """`internal`: for siblings; it never passes a request on again."""
        app = web.Application(middlewares=[problems], client_max_size=MAX_OFFER_BYTES)

        async def post(request: web.Request) -> web.Response:
            return await self._post(request, internal)

        def owned(handler: Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
            async def handle(request: web.Request) -> web.Response:
                return await self._at_owner(request, handler, internal)

            return handle

        app.add_routes(
            [
                web.get("/", self._get_page),
                web.get("/info", self._get_info),
                web.post("/whip", post),
                web.options("/whip", self._options),
                web.patch("/whip/{id}", owned(self._patch)),
                web.delete("/whip/{id}", owned(self._delete)),
                web.get("/sessions/{id}", owned(self._describe)),
            ]
        )
        return app

    async def _get_page(self, _request: web.Request) -> web.Response:
        return web.Response(text=self._page, content_type="text/html")

    async def _get_info(self, _request: web.Request) -> web.Response:
        return web.json_response(self._info)

    async def _options(self, _request: web.Request) -> web.Response:
        return web.Response(status=204, headers={"Accept-Post": SDP})

    async def _post(self, request: web.Request, internal: bool) -> web.Response:
        """RFC 9725 §4.2: an offer makes a session here, or at a sibling with room."""
        if request.content_type != SDP:
            return problem(415, "content_type", f"the body must be {SDP}")
        await _text_of(request)  # aiohttp keeps it; whoever reads it next does not wait
        if not internal:
            passed = await self._pass_to_emptier(request)
            if passed is not None:
                return passed
        try:
            offer = check_offer(await _text_of(request))
            session, answer = await self._registry.create(offer, _request_of(request))
        except OfferError as exc:
            return self._refuse(exc.status, exc.code, str(exc))
        except NotAcceptable as exc:
            return self._refuse(406, "not_acceptable", str(exc))
        except DirectoryError as exc:
            return self._refuse(503, "no_route", str(exc))
        except ServerFull:
            return self._refuse(503, "server_full", "the server is full, try again in a moment")
        headers = {"Location": f"/whip/{session.id}", "ETag": f'"{session.etag}"'}
        return web.Response(status=201, text=answer, content_type=SDP, headers=headers)

    async def _pass_to_emptier(self, request: web.Request) -> web.Response | None:
        """The kernel spreads connections, not calls: hand an offer on when a sibling is emptier."""
        ours = self._registry.sessions
        below = MAX_CAPACITY if self._registry.full else ours - FAIR_DIFFERENCE
        for slot in self._siblings.with_room(self._counters, below):
            try:
                passed = await self._siblings.pass_on(slot, request)
            except SiblingGone:
                continue
            if passed.status != 503:
                return passed
        return None

    async def _patch(self, request: web.Request, session: LiveSession) -> web.Response:
        """RFC 9725 §4.3: trickle is accepted and ignored, a restart makes new credentials."""
        if request.content_type != SDP_FRAGMENT:
            return problem(415, "content_type", f"the body must be {SDP_FRAGMENT}")
        match = request.headers.get("If-Match", "").strip()
        if not match:
            return problem(428, "precondition_required", "If-Match is missing")
        body = await _text_of(request)
        if len(body) > MAX_FRAGMENT_BYTES:
            return problem(413, "too_large", f"a fragment has at most {MAX_FRAGMENT_BYTES} bytes")
        try:
            fragment = parse_fragment(body)
        except FragmentError as exc:
            return problem(400, "malformed_sdpfrag", str(exc))
        if match.strip('"') == "*":
            return await self._restart(session, fragment)
        if match != f'"{session.etag}"':
            return problem(412, "precondition_failed", "this is not the ETag of the ICE session")
        return web.Response(status=204)

    async def _restart(self, session: LiveSession, fragment: Fragment) -> web.Response:
        if fragment.ufrag is None or fragment.password is None:
            return problem(400, "no_ice_credentials", "a restart needs a=ice-ufrag and a=ice-pwd")
        try:
            credentials = await self._registry.restart(session, fragment.ufrag)
        except DirectoryError as exc:
            return problem(503, "no_route", str(exc))
        body = build_fragment(
            fragment.mid,
            credentials.ufrag.decode(),
            credentials.password.decode(),
            session.candidates,
            HOST_PRIORITY,
        )
        return web.Response(
            status=200,
            text=body,
            content_type=SDP_FRAGMENT,
            headers={"ETag": f'"{session.etag}"'},
        )

    async def _delete(self, _request: web.Request, session: LiveSession) -> web.Response:
        session.end("the client hung up (DELETE)")
        await session.ended.wait()
        return web.Response(status=200)

    async def _describe(self, _request: web.Request, session: LiveSession) -> web.Response:
        return web.json_response(
            session.describe()
            | {"transceiver": self._registry.slot, "transceiver_pid": self._block.pid}
        )

    async def _at_owner(
        self, request: web.Request, handler: Handler, internal: bool
    ) -> web.Response:
        """Handle here if the session is ours, else pass on to the slot that its id names."""
        public_id = request.match_info["id"]
        session = self._registry.get(public_id)
        if session is not None:
            return await handler(request, session)
        slot = slot_of(public_id)
        if slot is not None and slot != self._registry.slot and not internal:
            try:
                return await self._siblings.pass_on(slot, request)
            except SiblingGone:
                pass
        return problem(404, "no_session", "there is no such session; it may have ended")

    def _refuse(self, status: int, code: str, message: str) -> web.Response:
        self._block.add(TransceiverCounter.OFFERS_REFUSED)
        return problem(status, code, message)


async def _text_of(request: web.Request) -> str:
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            body = await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    if (request.charset or "utf-8").lower() not in ("utf-8", "us-ascii"):
        raise web.HTTPUnsupportedMediaType  # SDP is UTF-8, RFC 8866 §5
    return body.decode("utf-8")


def _request_of(request: web.Request) -> Request:
    """What the agent may know of the request."""
    return Request(request.path, dict(request.query), dict(request.headers))
