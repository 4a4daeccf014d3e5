"""WHIP with a duplex answer (RFC 9725)."""

from collections.abc import Iterable

from aiohttp import web

from voicerelay.transceiver.calls import Calls, Refused, text_of
from voicerelay.transceiver.directory import DirectoryError
from voicerelay.transceiver.lite import HOST_PRIORITY
from voicerelay.transceiver.problem import problem
from voicerelay.transceiver.sdpfrag import (
    MAX_FRAGMENT_BYTES,
    Fragment,
    FragmentError,
    build_fragment,
    parse_fragment,
)
from voicerelay.transceiver.session import LiveSession

SDP = "application/sdp"
SDP_FRAGMENT = "application/trickle-ice-sdpfrag"


class Whip:
    """The contract's routes."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def routes(self) -> Iterable[web.RouteDef]:
        owned = self._calls.owned
        return [
            web.post("/whip", self._post),
            web.options("/whip", self._options),
            web.patch("/whip/{id}", owned(self._patch)),
            web.delete("/whip/{id}", owned(self._delete)),
        ]

    async def _options(self, _request: web.Request) -> web.Response:
        return web.Response(status=204, headers={"Accept-Post": SDP})

    async def _post(self, request: web.Request) -> web.Response:
        """§4.2: an offer makes a session here, or at a sibling with room."""
        if request.content_type != SDP:
            return problem(415, "content_type", f"the body must be {SDP}")
        offer = await text_of(request)
        passed = await self._calls.pass_to_emptier(request)
        if passed is not None:
            return passed
        try:
            session, answer = await self._calls.begin(request, offer)
        except Refused as exc:
            return problem(exc.status, exc.code, str(exc))
        headers = {"Location": f"/whip/{session.id}", "ETag": f'"{session.etag}"'}
        return web.Response(status=201, text=answer, content_type=SDP, headers=headers)

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
        if match != f'"{session.etag}"':
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
        return web.Response(status=200, text=body, content_type=SDP_FRAGMENT, headers=headers)

    async def _delete(self, _request: web.Request, session: LiveSession) -> web.Response:
        session.end("the client hung up (DELETE)")
        await session.ended.wait()
        return web.Response(status=200)
