"""What every signalling contract needs: to begin a call here or at a sibling, and to find a call's owner."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

from aiohttp import web

from voicerelay.shm.counters import Block, Counters, TransceiverCounter
from voicerelay.shm.region import MAX_CAPACITY
from voicerelay.transceiver.agent import Request
from voicerelay.transceiver.directory import DirectoryError
from voicerelay.transceiver.negotiate import NotAcceptable
from voicerelay.transceiver.offer import OfferError, check_offer
from voicerelay.transceiver.problem import problem
from voicerelay.transceiver.registry import Registry, ServerFull, slot_of
from voicerelay.transceiver.session import LiveSession
from voicerelay.transceiver.siblings import SiblingGone, Siblings

FAIR_DIFFERENCE = 1  # calls more than a sibling before an offer is handed on
BODY_TIMEOUT_S = 5.0  # a client that is slower than this with 64 kB is none
INTERNAL = web.AppKey("internal", bool)  # the application for siblings: it passes nothing on again

Handler = Callable[[web.Request, LiveSession], Awaitable[web.Response]]


class Refused(Exception):
    """No call is made of an offer: HTTP status, a stable code, and words for a person."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Calls:
    """The calls of this transceiver, and the way to its siblings'."""

    def __init__(
        self, registry: Registry, siblings: Siblings, counters: Counters, block: Block
    ) -> None:
        self.registry = registry
        self.block = block
        self.siblings = siblings
        self._counters = counters

    async def begin(
        self, request: web.Request, sdp: str, body: Any = None
    ) -> tuple[LiveSession, str]:
        """A new session and its answer. body: what the agent may know of the request's JSON.

        Raises Refused.
        """
        about = Request(request.path, request.query, request.headers, body)
        try:
            return await self.registry.create(check_offer(sdp), about)
        except OfferError as exc:
            self._refuse(exc.status, exc.code, str(exc))
        except NotAcceptable as exc:
            self._refuse(406, "not_acceptable", str(exc))
        except DirectoryError as exc:
            self._refuse(503, "no_route", str(exc))
        except ServerFull:
            self._refuse(503, "server_full", "the server is full, try again in a moment")

    async def pass_to_emptier(self, request: web.Request) -> web.Response | None:
        """The kernel spreads connections, not calls: hand an offer on when a sibling is emptier."""
        if request.app[INTERNAL]:
            return None
        ours = self.registry.sessions
        below = MAX_CAPACITY if self.registry.full else ours - FAIR_DIFFERENCE
        for slot in self.siblings.with_room(self._counters, below):
            try:
                passed = await self.siblings.pass_on(slot, request)
            except SiblingGone:
                continue
            if passed.status != 503:
                return passed
        return None

    def owned(self, handler: Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
        """A handler for a route with the session's `{id}`: runs where the session lives."""

        async def handle(request: web.Request) -> web.Response:
            public_id = request.match_info["id"]
            session = self.registry.get(public_id)
            if session is not None:
                return await handler(request, session)
            slot = slot_of(public_id)
            if slot is not None and slot != self.registry.slot and not request.app[INTERNAL]:
                try:
                    return await self.siblings.pass_on(slot, request)
                except SiblingGone:
                    pass
            return problem(404, "no_session", "there is no such session; it may have ended")

        return handle

    def _refuse(self, status: int, code: str, message: str) -> NoReturn:
        self.block.add(TransceiverCounter.OFFERS_REFUSED)
        raise Refused(status, code, message)


async def text_of(request: web.Request) -> str:
    """The body; aiohttp keeps it, so whoever reads it next does not wait."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            body = await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    if (request.charset or "utf-8").lower() not in ("utf-8", "us-ascii"):
        raise web.HTTPUnsupportedMediaType  # SDP is UTF-8, RFC 8866 §5
    return body.decode("utf-8")
