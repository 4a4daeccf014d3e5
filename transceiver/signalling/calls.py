"""What every signalling contract needs: to begin a call here or at a sibling, and to find a call's owner."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NoReturn

from aiohttp import web
from multidict import CIMultiDict

from voicerelay.shm.counters import Block, Counters, TransceiverCounter
from voicerelay.shm.region import MAX_CAPACITY
from voicerelay.transceiver.agent import Request
from voicerelay.transceiver.directory import DirectoryError
from voicerelay.transceiver.negotiate import NotAcceptable
from voicerelay.transceiver.registry import Registry, ServerFull, slot_of
from voicerelay.transceiver.session import LiveSession
from voicerelay.transceiver.signalling.access import CALLER
from voicerelay.transceiver.signalling.keys import Caller
from voicerelay.transceiver.signalling.names import CapReached, Names
from voicerelay.transceiver.signalling.offer import MAX_OFFER_BYTES, Offer, OfferError, check_offer
from voicerelay.transceiver.signalling.problem import problem
from voicerelay.transceiver.signalling.siblings import SiblingGone, Siblings

FAIR_DIFFERENCE = 1  # calls more than a sibling before an offer is handed on
BODY_TIMEOUT_S = 5.0  # a client that is slower than this with 64 kB is none
MAX_BODY_BYTES = 4 * MAX_OFFER_BYTES  # an offer in JSON, and what is beside it
JSON = "application/json"
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
        self,
        registry: Registry,
        siblings: Siblings,
        counters: Counters,
        block: Block,
        names: Names,
        sessions_per_key: int = 0,
    ) -> None:
        self.registry = registry
        self.block = block
        self.names = names
        self.siblings = siblings
        self._counters = counters
        self._sessions_per_key = sessions_per_key
        self._watchers: set[asyncio.Task[None]] = set()

    async def begin(
        self, request: web.Request, sdp: str, body: Any = None
    ) -> tuple[LiveSession, str]:
        """A new session and its answer. body: what the agent may know of the request's JSON.

        Raises Refused.
        """
        caller, headers = request[CALLER], CIMultiDict(request.headers)
        if caller.key:  # agents log what they see
            headers.popall("Authorization")
        about = Request(request.path, request.query, headers, body, caller.key, caller.subject)
        places: list[bytes] = []
        with self._refusing():
            try:
                offer = _checked(sdp)
                for who, most in self._caps(caller):
                    places.append(await self.names.place(who, most))
                session, answer = await self.registry.create(offer, about)
            except BaseException:
                for key in places:
                    self.names.give_up(key)
                raise
        self.when_ended(session, *places)
        return session, answer

    async def begin_again(self, session: LiveSession, sdp: str, fresh: bool) -> str:
        """The answer to another offer for a session, of a `fresh` peer connection or the same.

        Raises Refused.
        """
        with self._refusing():
            return await self.registry.reoffer(session, _checked(sdp), fresh)

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        """Say why there is no call."""
        try:
            yield
        except CapReached:
            self._refuse(429, "too_many_sessions", "there are as many calls as this key may have")
        except OfferError as exc:
            self._refuse(exc.status, exc.code, str(exc))
        except NotAcceptable as exc:
            self._refuse(406, "not_acceptable", str(exc))
        except DirectoryError as exc:
            self._refuse(503, "no_route", str(exc))
        except ServerFull:
            self._refuse(503, "server_full", "the server is full, try again in a moment")

    def when_ended(
        self, session: LiveSession, *keys: bytes, then: Callable[[], None] | None = None
    ) -> None:
        """Give up these keys of the route table, and do what else is to do, once it has ended."""
        if not keys:
            return

        async def watch() -> None:
            await session.ended.wait()
            for key in keys:
                self.names.give_up(key)
            if then is not None:
                then()

        watcher = asyncio.get_running_loop().create_task(watch())
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)

    def _caps(self, caller: Caller) -> list[tuple[str, int]]:
        """Whose sessions are counted, and up to how many: the key's, and the token's or its subject's."""
        caps = []
        if caller.key and self._sessions_per_key:
            caps.append((caller.key, self._sessions_per_key))
        if caller.max_sessions:
            whose = caller.subject or f" {caller.token}"
            caps.append((f"{caller.key} {whose}", caller.max_sessions))
        return caps

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
            session = self.ours(request, public_id)
            if session is not None:
                return await handler(request, session)
            passed = await self.pass_to(slot_of(public_id), request)
            return passed or no_session()

        return handle

    def ours(self, request: web.Request, public_id: str) -> LiveSession | None:
        """The session of this id, if it lives here and is the caller's."""
        session = self.registry.get(public_id)
        if session is None or session.request.key != request[CALLER].key:
            return None
        return session

    async def pass_to(self, slot: int | None, request: web.Request) -> web.Response | None:
        """The answer of the sibling with this slot; None when there is no other, or it has gone."""
        if slot is None or slot == self.registry.slot or request.app[INTERNAL]:
            return None
        try:
            return await self.siblings.pass_on(slot, request)
        except SiblingGone:
            return None

    def _refuse(self, status: int, code: str, message: str) -> NoReturn:
        self.block.add(TransceiverCounter.OFFERS_REFUSED)
        raise Refused(status, code, message)


def _checked(sdp: str) -> Offer:
    try:
        size = len(sdp.encode())
    except UnicodeEncodeError:  # JSON can say half a character
        raise OfferError(400, "malformed_sdp", "the SDP is no Unicode") from None
    if size > MAX_OFFER_BYTES:
        raise OfferError(413, "too_large", f"an offer has at most {MAX_OFFER_BYTES} bytes")
    return check_offer(sdp)


def no_session() -> web.Response:
    return problem(404, "no_session", "there is no such session; it may have ended")


def answered(status: int, text: str, kind: str, headers: dict[str, str]) -> web.Response:
    """SDP or a fragment of it; its media types have no charset (RFC 8866 §8.2.1, RFC 8840 §10.1)."""
    return web.Response(status=status, body=text.encode(), content_type=kind, headers=headers)


async def json_of(request: web.Request) -> dict[str, Any] | web.Response:
    """The body's JSON object, or what to answer instead."""
    if request.content_type != JSON:
        return problem(415, "content_type", f"the body must be {JSON}")
    try:
        body = json.loads(await text_of(request))
    except (ValueError, RecursionError):  # too long a number is no JSONDecodeError
        return problem(400, "malformed_json", "the body is not JSON")
    if not isinstance(body, dict):
        return problem(400, "malformed_json", "the body is not a JSON object")
    return body


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
