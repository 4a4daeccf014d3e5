"""The OpenAI Realtime contract over WebRTC: calls, hang-up, client secrets, sideband."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from aiohttp import BodyPartReader, MultipartReader, StreamReader, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import BadHttpMessage

from voicerelay.transceiver.realtime import ephemeral, sideband
from voicerelay.transceiver.realtime.oai import (
    CALLS_PATH,
    MAX_CONFIG_BYTES,
    BadEvent,
    Event,
    merged,
)
from voicerelay.transceiver.realtime.session import RealtimeSession
from voicerelay.transceiver.registry import slot_of
from voicerelay.transceiver.session import LiveSession
from voicerelay.transceiver.signalling.access import CALLER
from voicerelay.transceiver.signalling.calls import INTERNAL, Calls, Refused, answered, text_of
from voicerelay.transceiver.signalling.keys import Caller
from voicerelay.transceiver.signalling.problem import problem
from voicerelay.transceiver.signalling.siblings import SiblingGone

SDP: Final = "application/sdp"
MULTIPART: Final = "multipart/form-data"
ID_PREFIX: Final = "rtc_"
SIDEBAND_PATH: Final = "/v1/realtime"
SECRETS_PATH: Final = "/v1/realtime/client_secrets"
MAX_PARTS: Final = 8

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Realtime:
    """The contract's routes."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def routes(self) -> Iterable[web.RouteDef]:
        hangup = f"{CALLS_PATH}/{ID_PREFIX}{{id}}/hangup"
        return [
            web.post(CALLS_PATH, self._post),
            web.post(hangup, self._calls.owned(self._hang_up)),
            web.post(SECRETS_PATH, self._issue),
            web.get(SIDEBAND_PATH, self._sideband),
        ]

    def caller_of(self, credential: str) -> Caller | None:
        """For the door: whoever has a secret calls for the key that it was issued for."""
        secret = ephemeral.read(self._calls.registry.cluster_key, credential, time.time())
        if secret is None or not secret.owner:
            return None
        return Caller(secret.owner, token=credential[-16:], mark=secret.mark)

    async def _post(self, request: web.Request) -> web.Response:
        """An offer, alone or with a session beside it, makes a call here or at a sibling with room."""
        try:
            sdp, session = await self._read_offer(request)
            passed = await self._calls.pass_to_emptier(request)
            if passed is not None:
                return passed
            call, answer = await self._calls.begin(request, sdp, session)
        except Refused as exc:
            return problem(exc.status, exc.code, str(exc))
        RealtimeSession.of(call)  # answers the client's events, whatever the agent does
        headers = {"Location": f"{CALLS_PATH}/{ID_PREFIX}{call.id}"}
        return answered(201, answer, SDP, headers)

    async def _read_offer(self, request: web.Request) -> tuple[str, Event]:
        """The SDP, and the session: what the secret says, then what the call says. Raises Refused."""
        body = await text_of(
            request
        )  # aiohttp keeps it, for whoever reads the parts or passes it on
        session = self._session_of_secret(request)
        if request.content_type == SDP:
            return body, session
        if request.content_type != MULTIPART:
            raise Refused(415, "content_type", f"the body must be {SDP} or {MULTIPART}")
        parts = await _parts_of(request, await request.read())
        if "sdp" not in parts:
            raise Refused(400, "missing_sdp", "there is no part named sdp")
        return parts["sdp"], _merged(session, _session_in(parts.get("session", "{}")))

    def _session_of_secret(self, request: web.Request) -> Event:
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not value.startswith(ephemeral.PREFIX):
            return {}
        secret = ephemeral.read(self._calls.registry.cluster_key, value.strip(), time.time())
        if secret is None:
            raise Refused(401, "invalid_api_key", "the client secret is none, or has expired")
        return secret.session

    async def _hang_up(self, _request: web.Request, session: LiveSession) -> web.Response:
        session.end("hung up")
        await session.ended.wait()
        return web.Response(status=200)

    async def _issue(self, request: web.Request) -> web.Response:
        """A secret for a browser: good for calls only, and for a while."""
        caller = request[CALLER]
        if caller.token:
            return problem(403, "key_required", "only a key gets client secrets")
        body = await text_of(request)
        try:
            asked = _object_in(body or "{}", "the body")
            session = _session_in(json.dumps(asked.get("session", {})))
            expires_at = int(time.time()) + _lifetime_s(asked.get("expires_after", {}))
            session = {"type": "realtime"} | session
            value = ephemeral.issue(
                self._calls.registry.cluster_key, session, expires_at, caller.key, caller.mark
            )
        except Refused as exc:
            return problem(exc.status, exc.code, str(exc))
        except ephemeral.SecretTooLong as exc:
            return problem(400, "session_too_large", str(exc))
        return web.json_response({"value": value, "expires_at": expires_at, "session": session})

    async def _sideband(self, request: web.Request) -> web.StreamResponse:
        public_id = request.query.get("call_id", "").removeprefix(ID_PREFIX)
        session = self._calls.ours(request, public_id)
        if "upgrade" not in request.headers.get("Connection", "").lower():
            return problem(426, "upgrade_required", "this is a WebSocket")
        if session is not None:
            return await sideband.Sideband().serve(request, session)
        slot = slot_of(public_id)
        if slot is not None and slot != self._calls.registry.slot and not request.app[INTERNAL]:
            try:
                client = self._calls.siblings.client(slot)
            except SiblingGone:
                client = None
            passed = await sideband.pass_on(request, client) if client is not None else None
            if passed is not None:
                return passed
        return problem(404, "no_session", "there is no such call; it may have ended")


@web.middleware
async def openai_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """OpenAI's clients read `type` and `param` too; outermost, so that nobody's errors lack them."""
    response = await handler(request)
    if response.status < 400 or not request.path.startswith("/v1/"):
        return response
    if isinstance(response, web.Response) and response.content_type == "application/json":
        error = json.loads(response.text or "{}").get("error", {})
        kind = "server_error" if response.status >= 500 else "invalid_request_error"
        error = {"message": "", "type": kind, "code": None, "param": None} | error
        response.text = json.dumps({"error": error})
    return response


async def _parts_of(request: web.Request, body: bytes) -> dict[str, str]:
    """The text of each named part; the whole body is bounded already. Raises Refused."""
    stream = StreamReader(
        BaseProtocol(asyncio.get_running_loop()), len(body) + 1, loop=asyncio.get_running_loop()
    )
    stream.feed_data(body)
    stream.feed_eof()
    parts: dict[str, str] = {}
    try:
        reader = MultipartReader(request.headers, stream)
        for _ in range(MAX_PARTS):
            part = await reader.next()
            if part is None:
                return parts
            if isinstance(part, BodyPartReader) and part.name:
                parts[part.name] = (await part.read(decode=True)).decode()
    except (ValueError, RuntimeError, AssertionError, BadHttpMessage):
        raise Refused(400, "malformed_body", "the multipart body cannot be read") from None
    raise Refused(400, "malformed_body", f"a body has at most {MAX_PARTS} parts")


def _object_in(text: str, what: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Refused(400, "malformed_body", f"{what} must be a JSON object")
    return found


def _session_in(text: str) -> Event:
    if len(text) > MAX_CONFIG_BYTES:
        raise Refused(413, "too_large", f"a session has at most {MAX_CONFIG_BYTES} bytes")
    return _merged({}, _object_in(text, "session"))


def _merged(config: Event, update: Event) -> Event:
    try:
        return merged(config, update)
    except BadEvent as exc:
        raise Refused(400, "invalid_session", str(exc)) from None


def _lifetime_s(expires_after: Any) -> int:
    seconds = (
        expires_after.get("seconds", ephemeral.DEFAULT_LIFETIME_S)
        if isinstance(expires_after, dict)
        and expires_after.get("anchor", "created_at") == "created_at"
        else None
    )
    low, high = ephemeral.MIN_LIFETIME_S, ephemeral.MAX_LIFETIME_S
    if not isinstance(seconds, int) or isinstance(seconds, bool) or not low <= seconds <= high:
        raise Refused(
            400, "invalid_expiry", f"expires_after: created_at and {low} to {high} seconds"
        )
    return seconds
