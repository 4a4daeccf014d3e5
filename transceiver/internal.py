"""This transceiver's figures over HTTP, on a Unix socket of their own: whoever may open it is an operator.

It is not the siblings' socket: what a client sends may be passed on there, and must not end up here.
"""

import asyncio
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from voicerelay import __version__
from voicerelay.shm import rundir
from voicerelay.shm.counters import Block, TransceiverCounter
from voicerelay.shm.order import DEFAULT_DRAIN_DEADLINE_S, DRAIN, OPEN, Order, parse_order
from voicerelay.transceiver.figures import vitals
from voicerelay.transceiver.records import CallRecords
from voicerelay.transceiver.registry import Registry
from voicerelay.transceiver.session import LiveSession
from voicerelay.transceiver.signalling.problem import problem, problems
from voicerelay.transceiver.voice.pacer import Pacer

BACKLOG = 16
SHUTDOWN_S = 0.5
CALLS_A_ROUND = 4  # of the event loop
MAX_REASON_CHARS = 100
ENDED = "ended by the operator"


class Internal:
    """Sessions and figures of one transceiver. `agent`: who speaks with the callers; `obey`: the drain."""

    def __init__(
        self,
        registry: Registry,
        block: Block,
        pacer: Pacer,
        agent: str,
        records: CallRecords | None = None,
        obey: Callable[[Order], None] = lambda order: None,
        drain_deadline_s: int = DEFAULT_DRAIN_DEADLINE_S,
    ) -> None:
        self._registry = registry
        self._block = block
        self._pacer = pacer
        self._agent = agent
        self._records = records
        self._obey = obey
        self._drain_deadline_s = drain_deadline_s
        self._runner: web.AppRunner | None = None

    async def start(self, run_dir: Path) -> None:
        """Raises OSError."""
        path = rundir.figures_socket(run_dir, self._registry.slot)
        path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(str(path))
        path.chmod(rundir.SOCKET_MODE)
        self._runner = web.AppRunner(
            self.application(), access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_S
        )
        await self._runner.setup()
        await web.SockSite(self._runner, sock, backlog=BACKLOG).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def application(self) -> web.Application:
        app = web.Application(middlewares=[problems])
        app.add_routes(
            [
                web.get("/internal/sessions", self._list),
                web.get("/internal/sessions/{id}", self._show),
                web.delete("/internal/sessions/{id}", self._end),
                web.get("/internal/figures", self._figures),
                web.put("/internal/drain", self._drain),
                web.delete("/internal/drain", self._undrain),
            ]
        )
        return app

    async def _list(self, _request: web.Request) -> web.Response:
        """A few at a time: no voice waits until hundreds of calls have been described."""
        now, found = time.monotonic(), []
        for number, session in enumerate(self._registry.live(), 1):
            found.append(json.dumps(self._about(session, now)))
            if not number % CALLS_A_ROUND:
                await asyncio.sleep(0)
        return web.Response(text=f"[{','.join(found)}]", content_type="application/json")

    async def _show(self, request: web.Request) -> web.Response:
        session = self._find(request.match_info["id"])
        if session is None:
            return _nobody()
        return web.json_response(session.describe() | self._about(session, time.monotonic()))

    async def _end(self, request: web.Request) -> web.Response:
        session = self._find(request.match_info["id"])
        if session is None:
            return _nobody()
        session.end(_reason(request.query.get("reason", "")))
        return web.json_response({"id": session.id, "reason": session.end_reason})

    async def _figures(self, _request: web.Request) -> web.Response:
        registry, block = self._registry, self._block
        described = {
            "slot": registry.slot,
            "pid": block.pid,
            "generation": block.generation,
            "version": __version__,
            "agent": self._agent,
            "sessions": registry.sessions,
            "max_sessions": block.get(TransceiverCounter.MAX_SESSIONS),
            "records_written": self._records.written if self._records else 0,
            "records_dropped": self._records.dropped if self._records else 0,
            "draining": bool(block.get(TransceiverCounter.DRAINING)),
        }
        return web.json_response(
            described | registry.figures.snapshot(registry.live(), self._pacer)
        )

    async def _drain(self, request: web.Request) -> web.Response:
        deadline = request.query.get("deadline", str(self._drain_deadline_s))
        order = parse_order(f"{DRAIN} {deadline}".encode())
        if order is None:
            return problem(400, "bad_deadline", "deadline: give whole seconds, at most a week")
        self._obey(order)
        return self._obeyed(deadline_s=order.deadline_s)

    async def _undrain(self, _request: web.Request) -> web.Response:
        self._obey(Order(OPEN))
        return self._obeyed()

    def _obeyed(self, **more: int) -> web.Response:
        registry = self._registry
        return web.json_response({"slot": registry.slot, "sessions": registry.sessions} | more)

    def _find(self, wanted: str) -> LiveSession | None:
        """By the id, or by its last six characters if they are one call's alone."""
        found = self._registry.get(wanted)
        if found is None:
            short = [s for s in self._registry.live() if s.short_id == wanted]
            found = short[0] if len(short) == 1 else None
        return found

    def _about(self, session: LiveSession, now: float) -> dict[str, Any]:
        return vitals(session, now) | {"slot": self._registry.slot, "agent": self._agent}


def _reason(given: str) -> str:
    """What the log and the call's record say; one line, whatever was given."""
    text = "".join(c for c in given if c.isprintable())[:MAX_REASON_CHARS].strip()
    return f"{ENDED}: {text}" if text else ENDED


def _nobody() -> web.Response:
    return problem(404, "no_session", "there is no such session; it may have ended")
