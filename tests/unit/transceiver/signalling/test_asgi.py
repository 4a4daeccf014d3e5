"""The user's ASGI app behind several transceivers: who handles which request."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import pytest
from yarl import URL

from tests.unit.transceiver.test_registry import registry
from tests.unit.transceiver.test_session import WAIT_S, Host, host
from voicerelay.shm.counters import COUNTERS_BYTES, Counters, TransceiverCounter
from voicerelay.shm.region import INSTANCE_BYTES, Region, Sizes, remove_segments
from voicerelay.shm.rundir import http_socket
from voicerelay.shm.table import Entry, TableWriter
from voicerelay.transceiver.directory import CONTROL_GONE
from voicerelay.transceiver.settings import TransceiverSettings
from voicerelay.transceiver.signalling.asgi import MAX_READ_BYTES, Neighbourhood, OwnerFirst
from voicerelay.transceiver.signalling.asgi_server import AsgiServer
from voicerelay.transceiver.signalling.owners import owner_key
from voicerelay.transceiver.signalling.siblings import Siblings
from voicerelay.transceiver.stock import StockHost

OURS, THEIRS = 0, 1
JSON = "application/json"
OFFER = {"sdp": "v=0", "type": "offer"}


class App:
    """Tells which transceiver it is in, and begins a call for an offer."""

    def __init__(self, slot: int, stock: StockHost) -> None:
        self._slot = slot
        self._stock = stock
        self.began = self.stopped = False
        self.seen: list[bytes] = []
        self.disconnected = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            self.began = True
            await send({"type": "lifespan.startup.complete"})
            await receive()
            self.stopped = True
            await send({"type": "lifespan.shutdown.complete"})
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        self.seen.append(body)
        told = {"slot": self._slot, "bytes": len(body), "query": scope["query_string"].decode()}
        if scope["path"] == "/endless":
            await self._endless(receive, send)
            return
        if b'"offer"' in body:
            call = self._stock.call(None)
            await call.begin()
            told["pc_id"] = call.id
        headers = [(b"content-type", b"application/json"), (b"x-app", b"kept")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(told).encode()})

    async def _endless(self, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        assert (await receive())["type"] == "http.disconnect"
        self.disconnected.set()


class Transceiver:
    """One of the two, served by uvicorn."""

    def __init__(
        self, slot: int, here: Host, region: Region, counters: Counters, folder: Path, most: int
    ) -> None:
        self.here = here
        self.registry = registry(here, most)
        stock = StockHost(self.registry, here.mux, here.directory)
        self.app = App(slot, stock)
        self.siblings = Siblings(folder, slot)
        around = Neighbourhood(slot, self.registry, self.siblings, counters, region.route_reader())
        settings = TransceiverSettings(str(folder), slot, "x:app", "127.0.0.1", 0, [], most)
        self.server = AsgiServer(OwnerFirst(self.app, around), settings)
        self.url = ""

    async def start(self) -> None:
        await self.server.start()
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"

    async def ask(
        self, body: Any = None, path: str = "/any", method: str = "POST"
    ) -> tuple[int, Any]:
        async with (
            aiohttp.ClientSession() as http,
            http.request(method, URL(self.url + path, encoded=True), json=body) as response,
        ):
            text = await response.text()
            return response.status, json.loads(text) if response.content_type == JSON else text


class Two:
    """Two transceivers of one host, and control's hand in the route table."""

    def __init__(self, ours: Transceiver, theirs: Transceiver, routes: TableWriter) -> None:
        self.ours = ours
        self.theirs = theirs
        self._routes = routes

    def own(self, name: str, slot: int) -> None:
        self._routes.put(owner_key(name), Entry(slot, 1, 1, 0))


@contextlib.asynccontextmanager
async def two(most: int = 4) -> AsyncIterator[Two]:
    counters = Counters(memoryview(bytearray(COUNTERS_BYTES)))
    with TemporaryDirectory() as folder:
        name = f"voicerelay-test-{Path(folder).name}"
        region = Region.create(name, bytes(INSTANCE_BYTES), Sizes.for_capacity(16))
        try:
            async with host() as here, host() as there:
                made = []
                for slot, one, room in ((OURS, here, most), (THEIRS, there, 4)):
                    one.block = counters.transceiver(slot)
                    one.block.claim()
                    one.block.own()
                    made.append(Transceiver(slot, one, region, counters, Path(folder), room))
                try:
                    for transceiver in made:
                        await transceiver.start()
                    yield Two(made[0], made[1], region.route_writer())
                finally:
                    for transceiver in made:
                        await transceiver.registry.close_all("the test is over")
                        await transceiver.server.stop()
                        await transceiver.siblings.close()
        finally:
            region.close()
            remove_segments(name)


# ---- who handles it ------------------------------------------------------------------------------


def test_a_request_that_names_no_call_is_handled_where_it_lands() -> None:
    async def run() -> None:
        async with two() as here:
            _, told = await here.ours.ask({"hello": 1}, "/any?a=1")

            assert told == {"slot": OURS, "bytes": 12, "query": "a=1"}

    asyncio.run(run())


@pytest.mark.parametrize("field", ["pc_id", "webrtc_id"])
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_request_that_names_a_siblings_call_reaches_it(field: str, method: str) -> None:
    async def run() -> None:
        async with two() as here:
            here.own("call", THEIRS)

            status, told = await here.ours.ask({field: "call"}, "/any?a=%2F", method)

            assert (status, told["slot"], told["query"]) == (200, THEIRS, "a=%2F")
            assert json.loads(here.theirs.app.seen[0]) == {field: "call"}
            assert (await here.ours.ask(None, f"/any?{field}=call", "GET"))[1]["slot"] == THEIRS

    asyncio.run(run())


def test_a_request_that_names_a_call_of_ours_stays() -> None:
    async def run() -> None:
        async with two() as here:
            here.own("call", OURS)

            assert (await here.ours.ask({"pc_id": "call"}))[1]["slot"] == OURS

    asyncio.run(run())


def test_an_owner_that_has_gone_leaves_the_answer_to_us() -> None:
    async def run() -> None:
        async with two() as here:
            here.own("call", 7)

            assert (await here.ours.ask({"pc_id": "call"}))[1]["slot"] == OURS

    asyncio.run(run())


def test_what_a_sibling_sends_goes_no_further() -> None:
    async def run() -> None:
        async with (
            two() as here,
            aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(
                    str(http_socket(Path(here.ours.siblings._run_dir), OURS))
                )
            ) as http,
        ):
            here.own("call", THEIRS)

            async with http.post("http://sibling/any", json={"pc_id": "call"}) as response:
                assert (await response.json())["slot"] == OURS

    asyncio.run(run())


def test_a_body_that_is_too_long_to_read_goes_to_the_app_unread() -> None:
    async def run() -> None:
        async with two() as here:
            here.own("call", THEIRS)
            body = {"pc_id": "call", "more": "x" * MAX_READ_BYTES}

            _, told = await here.ours.ask(body)

            assert (told["slot"], told["bytes"]) == (OURS, len(json.dumps(body)))

    asyncio.run(run())


# ---- offers --------------------------------------------------------------------------------------


def test_an_offers_call_is_found_by_what_request_and_answer_name() -> None:
    async def run() -> None:
        async with two() as here:
            _, told = await here.ours.ask(OFFER | {"webrtc_id": "chosen"})

            directory = here.ours.here.directory
            assert {owner_key("chosen"), owner_key(told["pc_id"])} <= set(directory.routes)

    asyncio.run(run())


def test_offers_are_spread_and_handed_to_who_has_room() -> None:
    async def run() -> None:
        async with two(most=2) as here:
            slots = [(await here.ours.ask(OFFER))[1]["slot"] for _ in range(6)]

            assert (slots.count(OURS), slots.count(THEIRS)) == (2, 4)

    asyncio.run(run())


def test_when_all_are_full_an_offer_is_refused_and_asked_again_later() -> None:
    async def run() -> None:
        async with two(most=1) as here:
            for _ in range(5):
                assert (await here.ours.ask(OFFER))[0] == 200

            async with (
                aiohttp.ClientSession() as http,
                http.post(here.ours.url, json=OFFER) as response,
            ):
                assert response.status == 503
                assert response.headers["Retry-After"] == "2"
                assert (await response.json())["error"]["code"] == "server_full"
            assert here.ours.here.block.get(TransceiverCounter.OFFERS_REFUSED) == 1

    asyncio.run(run())


def test_without_control_an_offer_is_refused_but_a_restart_reaches_the_app() -> None:
    async def run() -> None:
        async with two() as here:
            for one in (here.ours, here.theirs):
                one.here.directory.error = CONTROL_GONE
            assert (await here.ours.ask(OFFER))[0] == 503

            here.own("call", OURS)
            assert (await here.ours.ask(OFFER | {"pc_id": "call"}))[0] == 500  # the app's own say

    asyncio.run(run())


# ---- answers of siblings -------------------------------------------------------------------------


def test_a_siblings_endless_answer_comes_as_it_is_sent_and_ends_with_the_client() -> None:
    async def run() -> None:
        async with two() as here:
            here.own("call", THEIRS)

            async with (
                aiohttp.ClientSession() as http,
                http.get(f"{here.ours.url}/endless?webrtc_id=call") as response,
            ):
                assert await response.content.readexactly(5) == b"first"

            async with asyncio.timeout(WAIT_S):
                await here.theirs.app.disconnected.wait()

    asyncio.run(run())


def test_a_siblings_headers_are_kept() -> None:
    async def run() -> None:
        async with two() as here:
            here.own("call", THEIRS)

            async with (
                aiohttp.ClientSession() as http,
                http.post(here.ours.url, json={"pc_id": "call"}) as response,
            ):
                assert response.headers["X-App"] == "kept"
                assert response.content_type == "application/json"

    asyncio.run(run())
