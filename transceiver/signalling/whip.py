"""WHIP with a duplex answer (RFC 9725), and WHEP, its mirror, for those who only listen."""

import re
import time
from collections.abc import Iterable, Sequence

from aiohttp import web

from voicerelay.transceiver.directory import DirectoryError
from voicerelay.transceiver.lite import HOST_PRIORITY
from voicerelay.transceiver.session import LiveSession
from voicerelay.transceiver.signalling.access import CALLER
from voicerelay.transceiver.signalling.calls import Calls, Refused, answered, text_of
from voicerelay.transceiver.signalling.iceservers import IceServer, link_header
from voicerelay.transceiver.signalling.offer import MAX_OFFER_BYTES
from voicerelay.transceiver.signalling.problem import problem
from voicerelay.transceiver.signalling.sdpfrag import (
    MAX_FRAGMENT_BYTES,
    Fragment,
    FragmentError,
    build_fragment,
    parse_fragment,
)

SDP = "application/sdp"
SDP_FRAGMENT = "application/trickle-ice-sdpfrag"


_SENDS = re.compile(r"^a=(?:sendrecv|sendonly)[ \t]*\r?$", re.MULTILINE)


class Whip:
    """The contract's routes below one path. listen_only: the agent speaks and hears nothing."""

    def __init__(
        self, calls: Calls, path: str, servers: Sequence[IceServer] = (), listen_only: bool = False
    ) -> None:
        self._calls = calls
        self._path = path
        self._servers = servers
        self._listen_only = listen_only

    def routes(self) -> Iterable[web.RouteDef]:
        owned = self._calls.owned
        return [
            web.post(self._path, self._post),
            web.options(self._path, self._options),
            web.patch(self._path + "/{id}", owned(self._patch)),
            web.delete(self._path + "/{id}", owned(self._delete)),
        ]

    async def _options(self, request: web.Request) -> web.Response:
        return web.Response(status=204, headers={"Accept-Post": SDP} | self._links(request))

    def _links(self, request: web.Request) -> dict[str, str]:
        """§4.6: the TURN servers, for those who may call."""
        caller = request[CALLER]
        if not self._servers or caller.denied:
            return {}
        user, now = caller.subject or "voicerelay", time.time()
        return {"Link": link_header([s.configuration(user, now) for s in self._servers])}

    async def _post(self, request: web.Request) -> web.Response:
        """§4.2: an offer makes a session here, or at a sibling with room."""
        if request.content_type != SDP:
            refusal = problem(415, "content_type", f"the body must be {SDP}")
            refusal.headers["Accept-Post"] = SDP
            return refusal
        offer = await text_of(request)
        if len(offer.encode()) > MAX_OFFER_BYTES:
            return problem(413, "too_large", f"an offer has at most {MAX_OFFER_BYTES} bytes")
        passed = await self._calls.pass_to_emptier(request)
        if passed is not None:
            return passed
        if self._listen_only:
            offer = _SENDS.sub("a=recvonly\r", offer)
        try:
            session, answer = await self._calls.begin(request, offer)
        except Refused as exc:
            return problem(exc.status, exc.code, str(exc))
        headers = {"Location": f"{self._path}/{session.id}", "ETag": f'"{session.etag}"'}
        headers |= self._links(request)
        return answered(201, answer, SDP, headers)

    async def _patch(self, request: web.Request, session: LiveSession) -> web.Response:
        """§4.3: trickle is accepted and ignored, a restart makes new credentials."""
        if request.content_type != SDP_FRAGMENT:
            return problem(415, "content_type", f"the body must be {SDP_FRAGMENT}")
        match = request.headers.get("If-Match", "").strip()
        if not match:
            return problem(428, "precondition_required", "If-Match is missing")
        body = await text_of(request)
        if len(body) > MAX_FRAGMENT_BYTES:
            return problem(413, "too_large", f"a fragment has at most {MAX_FRAGMENT_BYTES} bytes")
        try:
            fragment = parse_fragment(body)
        except FragmentError as exc:
            return problem(400, "malformed_sdpfrag", str(exc))
        if match.strip('"') == "*":
            return await self._restart(session, fragment)
        if f'"{session.etag}"' not in map(str.strip, match.split(",")):  # RFC 9110 §13.1.1
            return problem(412, "precondition_failed", "this is not the ETag of the ICE session")
        return web.Response(status=204)

    async def _restart(self, session: LiveSession, fragment: Fragment) -> web.Response:
        if fragment.ufrag is None or fragment.password is None:
            return problem(400, "no_ice_credentials", "a restart needs a=ice-ufrag and a=ice-pwd")
        try:
            credentials = await self._calls.registry.restart(session, fragment.ufrag)
        except DirectoryError as exc:
            return problem(503, "no_route", str(exc))
        body = build_fragment(
            fragment.mid,
            credentials.ufrag.decode(),
            credentials.password.decode(),
            session.candidates,
            HOST_PRIORITY,
        )
        headers = {"ETag": f'"{session.etag}"'}
        return answered(200, body, SDP_FRAGMENT, headers)

    async def _delete(self, _request: web.Request, session: LiveSession) -> web.Response:
        session.end("the client hung up (DELETE)")
        await session.ended.wait()
        return web.Response(status=200)
