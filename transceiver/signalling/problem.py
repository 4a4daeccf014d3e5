"""HTTP errors: one JSON shape for all of them, `{"error": {"code", "message"}}`."""

import json
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

RETRY_AFTER_S = 2
_CODES = {413: "request_entity_too_large"}  # newer Pythons have another phrase for it

log = logging.getLogger("voicerelay.http")


def problem(status: int, code: str, message: str) -> web.Response:
    """An error response; 429 and 503 say when to try again."""
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status in (429, 503) else None
    return web.json_response(
        {"error": {"code": code, "message": message}}, status=status, headers=headers
    )


@web.middleware
async def problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Give aiohttp's own errors, and our mistakes, the same shape; no traceback leaves."""
    try:
        return await handler(request)
    except web.HTTPException as exc:
        if exc.status < 400:
            raise
        code = _CODES.get(exc.status) or exc.reason.lower().replace(" ", "_")
        response = problem(exc.status, code, exc.reason)
        if "Allow" in exc.headers:
            response.headers["Allow"] = exc.headers["Allow"]
        return response
    except (json.JSONDecodeError, UnicodeDecodeError, web.RequestPayloadError):
        return problem(400, "malformed_body", "the body cannot be read")
    except Exception:
        log.exception("%s %s", request.method, _route_of(request))
        return problem(500, "internal_error", "the server made a mistake; it has been logged")


def _route_of(request: web.Request) -> str:
    """The route's pattern: the path itself may hold a session's id, which nobody else should see."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "unknown route"
