"""HTTP in every transceiver: the contracts that clients speak, the demo page, figures of a session."""

from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any, Protocol

from aiohttp import web

from voicerelay.shm.counters import Block, Counters
from voicerelay.transceiver.realtime.contract import Realtime, openai_errors
from voicerelay.transceiver.registry import Registry
from voicerelay.transceiver.session import LiveSession
from voicerelay.transceiver.signalling.access import Access
from voicerelay.transceiver.signalling.calls import INTERNAL, MAX_BODY_BYTES, Calls
from voicerelay.transceiver.signalling.connections import Connections
from voicerelay.transceiver.signalling.fastrtc import FastRtc
from voicerelay.transceiver.signalling.iceservers import IceServer
from voicerelay.transceiver.signalling.names import Names
from voicerelay.transceiver.signalling.pipecat import Pipecat
from voicerelay.transceiver.signalling.problem import problems
from voicerelay.transceiver.signalling.siblings import Siblings
from voicerelay.transceiver.signalling.whip import Whip


class Contract(Protocol):
    """One way of signalling."""

    def routes(self) -> Iterable[web.RouteDef]: ...


class Signalling:
    """Makes the aiohttp applications: one for clients, one for siblings on the Unix socket."""

    def __init__(
        self,
        registry: Registry,
        siblings: Siblings,
        counters: Counters,
        block: Block,
        names: Names,
        access: Access,
        info: dict[str, Any],
        servers: Sequence[IceServer] = (),
    ) -> None:
        self.access = access
        self.connections = Connections(block)
        self._calls = Calls(registry, siblings, counters, block, names, access.sessions_per_key)
        realtime = Realtime(self._calls)
        access.readers.append(realtime.caller_of)
        self._contracts: list[Contract] = [
            Whip(self._calls, "/whip", servers),
            Whip(self._calls, "/whep", servers, listen_only=True),
            realtime,
            Pipecat(self._calls, servers),
            FastRtc(self._calls),
        ]
        self._info = info
        self._page = files("voicerelay.transceiver").joinpath("page/index.html").read_text("utf-8")

    def application(self, internal: bool) -> web.Application:
        """`internal`: for siblings; it never passes a request on again."""
        access = self.access
        doors = [problems, access.inner_door] if internal else [access.cors, problems, access.door]
        if not internal:
            doors = [self.connections.middleware, *doors]
        app = web.Application(middlewares=[openai_errors, *doors], client_max_size=MAX_BODY_BYTES)
        app[INTERNAL] = internal
        app.add_routes(
            [
                web.get("/", self._get_page),
                web.get("/info", self._get_info),
                web.get("/sessions/{id}", self._calls.owned(self._describe)),
            ]
        )
        for contract in self._contracts:
            app.add_routes(contract.routes())
        return app

    async def _get_page(self, _request: web.Request) -> web.Response:
        return web.Response(text=self._page, content_type="text/html")

    async def _get_info(self, _request: web.Request) -> web.Response:
        return web.json_response(self._info)

    async def _describe(self, _request: web.Request, session: LiveSession) -> web.Response:
        where = {
            "transceiver": self._calls.registry.slot,
            "transceiver_pid": self._calls.block.pid,
        }
        return web.json_response(session.describe() | where)
