"""Who may ask what, and how often: the door before every contract."""

import ipaddress
import math
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from voicerelay.transceiver.settings import AccessSettings, TransceiverSettings
from voicerelay.transceiver.signalling.buckets import Buckets, Rate
from voicerelay.transceiver.signalling.cors import (
    ANY,
    Origins,
    cors_headers,
    from_elsewhere,
    host_of,
    is_loopback,
)
from voicerelay.transceiver.signalling.keyfile import KeyFile
from voicerelay.transceiver.signalling.keys import Caller, Denied
from voicerelay.transceiver.signalling.problem import problem

ADDRESS_RATE = Rate(burst=60, per_s=10.0)  # a call is a POST, a PATCH for each candidate, a DELETE
KEY_RATE = Rate(burst=1000, per_s=200.0)  # a backend that calls for its users
CALLER = web.RequestKey("caller", Caller)
_CHANGING = ("POST", "PATCH", "DELETE")
_OPEN_PATHS = ("/",)  # the page asks for the key
_REALM = 'Bearer realm="voicerelay"'

Next = Callable[[web.Request], Awaitable[web.StreamResponse]]
# Who a contract's own kind of credential belongs to, such as Realtime's client secrets.
Reader = Callable[[str], Caller | None]


def objection(settings: TransceiverSettings, asgi: bool) -> str:
    """Why these settings would let in others than their user means; empty when they do not."""
    keys, host = settings.access.api_key_file, settings.http_host
    if asgi:
        return "--api-key-file: an ASGI application asks for keys itself" if keys else ""
    if keys or settings.access.open or is_loopback(host):
        return ""
    return f"--http {host}: anybody could call; give --api-key-file FILE, or --open to allow that"


class Access:
    """Two middlewares of aiohttp: `cors` before what gives errors their shape, `door` behind it."""

    def __init__(self, settings: AccessSettings) -> None:
        self._file = KeyFile(settings.api_key_file) if settings.api_key_file else None
        # A page without a credential can do nothing; an open server trusts this machine's pages only.
        self._origins = Origins(settings.cors_origins or ([ANY] if self._file else []))
        self._private = self._file is None and not settings.open
        self._buckets = Buckets()
        self.readers: list[Reader] = []
        self.sessions_per_key = settings.sessions_per_key

    @web.middleware
    async def cors(self, request: web.Request, handler: Next) -> web.StreamResponse:
        """Answers preflights; marks every answer, errors too, as readable for allowed pages."""
        origin = from_elsewhere(request.headers)
        if not origin:
            return await handler(request)
        preflight = (
            request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        )
        if not self._origins.allow(origin):
            if preflight or request.method in _CHANGING:
                return problem(
                    403, "origin", "pages of this origin may not call; see --cors-origin"
                )
            return await handler(request)
        response = await handler(request)
        if preflight and response.status >= 400:
            response = web.Response(status=204)
        response.headers.update(cors_headers(origin, preflight))
        return response

    @web.middleware
    async def door(self, request: web.Request, handler: Next) -> web.StreamResponse:
        """Lets in who has a key or a token, not too often."""
        if self._private and not is_loopback(host_of(request.host)):
            # A proxy has brought it here, or a page whose name points to this machine (DNS rebinding).
            return problem(403, "host", "open for this machine only; see --api-key-file and --open")
        denied = self._deny(request)
        if request.method in _CHANGING:
            wait_s = self._wait_s(request, time.monotonic())
            if wait_s:
                seconds = math.ceil(wait_s)
                denied = problem(429, "too_many_requests", f"come again in {seconds} s")
                denied.headers["Retry-After"] = str(seconds)
        return denied or await handler(request)

    @web.middleware
    async def inner_door(self, request: web.Request, handler: Next) -> web.StreamResponse:
        """For what a sibling passes on: it has counted already."""
        return self._deny(request) or await handler(request)

    def _deny(self, request: web.Request) -> web.Response | None:
        """Find the caller; an answer for those who may not."""
        found = self._find(request)
        if isinstance(found, Caller):
            request[CALLER] = found
            return None
        request[CALLER] = Caller(denied=True)
        public = request.method == "OPTIONS" or request.path in _OPEN_PATHS
        return None if public else found

    def _find(self, request: web.Request) -> Caller | web.Response:
        if self._file is None:
            return Caller()
        scheme, _, credential = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return unauthorized("unauthorized", "this server wants a key or token (Bearer)", _REALM)
        credential = credential.strip()
        challenge = f'{_REALM}, error="invalid_token"'
        keys = self._file.current(time.monotonic())
        known = next(filter(None, (read(credential) for read in self.readers)), None)
        try:
            if known is not None:
                return keys.still(known)
            caller = keys.caller(credential, time.time())
        except Denied as exc:
            return unauthorized("invalid_token", str(exc), challenge)
        # Whoever began a call may end it, however long it lasted.
        if caller.expired and "id" not in request.match_info:
            return unauthorized("token_expired", "the token has expired", challenge)
        return caller

    def _wait_s(self, request: web.Request, now: float) -> float:
        caller = request[CALLER]
        if caller.key and not caller.token:
            return self._buckets.take(caller.key, KEY_RATE, now)
        address = address_of(request.remote or "", request.headers.get("X-Forwarded-For", ""))
        if not caller.key and is_loopback(address):
            return 0.0  # who is on this machine needs no HTTP to keep it busy
        return self._buckets.take((caller.key, caller.subject, address), ADDRESS_RATE, now)


def unauthorized(code: str, message: str, challenge: str) -> web.Response:
    """401 (RFC 6750 §3)."""
    response = problem(401, code, message)
    response.headers["WWW-Authenticate"] = challenge
    return response


def address_of(remote: str, forwarded_for: str) -> str:
    """Where a request comes from; a proxy on this machine is believed. One IPv6 /64 is one client."""
    told = forwarded_for.rpartition(",")[2].strip()
    try:
        address = ipaddress.ip_address(told if told and is_loopback(remote) else remote)
    except ValueError:
        return ""
    if address.version == 4 or address.is_loopback:
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False).network_address)
