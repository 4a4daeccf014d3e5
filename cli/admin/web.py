"""HTTP of the admin process: metrics, health, snapshot, page. It answers and changes nothing."""

import base64
import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from importlib.resources import files

from aiohttp import web

from voicerelay.cli.admin.metrics import Metrics
from voicerelay.cli.admin.ready import objections
from voicerelay.cli.admin.snapshot import Looker
from voicerelay.cli.errors import NotRunning
from voicerelay.transceiver.signalling.cors import host_of, is_loopback

_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AdminWeb:
    """`private`: bound to loopback, so only names of this machine are answered (no DNS rebinding)."""

    def __init__(self, looker: Looker, private: bool) -> None:
        self._looker = looker
        self._private = private
        self._metrics = Metrics()
        self._page = files("voicerelay.cli.admin").joinpath("page/index.html").read_text("utf-8")
        self._policy = policy(self._page)

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._door])
        app.add_routes(
            [
                web.get("/", self._get_page),
                web.get("/api/snapshot", self._get_snapshot),
                web.get("/metrics", self._get_metrics),
                web.get("/livez", self._get_livez),
                web.get("/readyz", self._get_readyz),
            ]
        )
        return app

    @web.middleware
    async def _door(self, request: web.Request, handler: Next) -> web.StreamResponse:
        if self._private and not is_loopback(host_of(request.host)):
            raise web.HTTPForbidden(text="this address answers this machine only\n")
        try:
            response = await handler(request)
        except NotRunning as exc:
            raise web.HTTPServiceUnavailable(text=f"{exc.message}\n") from exc
        response.headers.update(_HEADERS)
        return response

    async def _get_page(self, _request: web.Request) -> web.Response:
        headers = {"Content-Security-Policy": self._policy, "X-Frame-Options": "DENY"}
        return web.Response(text=self._page, content_type="text/html", headers=headers)

    async def _get_snapshot(self, _request: web.Request) -> web.Response:
        seen = await self._looker.look(calls=True)
        text = json.dumps(seen.for_page(), separators=(",", ":"))
        response = web.Response(text=text, content_type="application/json")
        response.enable_compression()
        return response

    async def _get_metrics(self, request: web.Request) -> web.Response:
        seen = await self._looker.look(calls=False)
        body, content_type = self._metrics.render(seen, request.headers.get("Accept", ""))
        response = web.Response(body=body, headers={"Content-Type": content_type})
        response.enable_compression()
        return response

    async def _get_livez(self, _request: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def _get_readyz(self, _request: web.Request) -> web.Response:
        why = objections(self._looker.status())
        return web.json_response({"ready": not why, "why": why}, status=503 if why else 200)


def policy(page: str) -> str:
    """A Content-Security-Policy under which this page runs, and nothing else."""
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for kind, text in _INLINE.findall(page):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
    return "; ".join(
        [
            "default-src 'none'",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            *(f"{kind}-src {' '.join(found)}" for kind, found in hashes.items()),
        ]
    )
