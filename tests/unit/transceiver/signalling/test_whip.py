"""WHIP as clients see it (RFC 9725): every status of the contract, and requests that land elsewhere."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from tests.unit.transceiver.signalling.test_offer import CHROMIUM, REFUSED
from tests.unit.transceiver.test_session import WAIT_S, Host, listen
from tests.unit.transceiver.test_session import host as session_host
from voicerelay.shm.counters import COUNTERS_BYTES, Counters, TransceiverCounter
from voicerelay.shm.rundir import http_socket
from voicerelay.transceiver.agent import Agent
from voicerelay.transceiver.directory import CONTROL_GONE
from voicerelay.transceiver.registry import Registry
from voicerelay.transceiver.settings import AccessSettings
from voicerelay.transceiver.signalling import calls as module
from voicerelay.transceiver.signalling.access import Access
from voicerelay.transceiver.signalling.app import Signalling
from voicerelay.transceiver.signalling.iceservers import IceServer
from voicerelay.transceiver.signalling.names import Names
from voicerelay.transceiver.signalling.offer import MAX_OFFER_BYTES
from voicerelay.transceiver.signalling.siblings import Siblings
from voicerelay.transceiver.signalling.whip import SDP, SDP_FRAGMENT

OURS, THEIRS, NOBODYS = 1, 2, 3
OPEN = AccessSettings()
RESTART = "a=ice-ufrag:efgh\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\n"
TRICKLE = "a=candidate:1 1 udp 2130706431 x.local 50000 typ host\r\n"


class Server:
    """One transceiver's HTTP; `here` is all behind it."""

    def __init__(
        self,
        here: Host,
        run_dir: Path,
        counters: Counters,
        slot: int,
        most: int,
        agent: Agent,
        access: Access,
        servers: Sequence[IceServer],
    ) -> None:
        self.here = here
        here.block = counters.transceiver(slot)
        here.block.claim()
        here.mux._block = here.block
        self.registry = Registry(
            slot, agent, here.mux, here.directory, here.block, here.candidates, most, here.pacer
        )
        self.registry.cluster_key = b"k" * 32
        self.siblings = Siblings(run_dir, slot)
        names = Names(here.directory, here.directory)
        self.signalling = Signalling(
            self.registry,
            self.siblings,
            counters,
            here.block,
            names,
            access,
            {"version": "x"},
            servers,
        )
        self.client: TestClient[web.Request, web.Application]

    async def offer(self, sdp: str = CHROMIUM, content_type: str = SDP) -> ClientResponse:
        headers = {"Content-Type": content_type}
        response = await self.client.post("/whip", data=sdp.encode(), headers=headers)
        await response.read()
        return response

    async def patch(self, location: str, body: str, **headers: str) -> ClientResponse:
        sent = {"Content-Type": SDP_FRAGMENT} | {k.replace("_", "-"): v for k, v in headers.items()}
        response = await self.client.patch(location, data=body, headers=sent)
        await response.read()
        return response


@contextlib.asynccontextmanager
async def server(
    counters: Counters | None = None,
    run_dir: Path | None = None,
    slot: int = OURS,
    most: int = 4,
    agent: Agent = listen,
    access: AccessSettings = OPEN,
    table: dict[bytes, int] | None = None,
    servers: Sequence[IceServer] = (),
) -> AsyncIterator[Server]:
    """`table`: the route table that siblings share."""
    async with contextlib.AsyncExitStack() as stack:
        folder = run_dir or Path(stack.enter_context(TemporaryDirectory()))
        here = await stack.enter_async_context(session_host())
        shared = counters or Counters(memoryview(bytearray(COUNTERS_BYTES)))
        if table is not None:
            here.directory.share(table, slot)
        made = Server(here, folder, shared, slot, most, agent, Access(access), servers)
        runner = web.AppRunner(made.signalling.application(internal=True), shutdown_timeout=0.1)
        await runner.setup()
        await web.UnixSite(runner, str(http_socket(folder, slot))).start()
        stack.push_async_callback(runner.cleanup)
        application = made.signalling.application(internal=False)
        made.client = await stack.enter_async_context(TestClient(TestServer(application)))
        stack.push_async_callback(made.siblings.close)
        stack.push_async_callback(made.registry.close_all, "the test is over")
        yield made


async def code_of(response: ClientResponse) -> tuple[int, str]:
    return response.status, (await response.json())["error"]["code"]


# ---- offers --------------------------------------------------------------------------------------


def test_an_offer_is_answered_with_what_whip_promises() -> None:
    async def run() -> None:
        async with server() as here:
            response = await here.offer()

            assert (response.status, response.headers["Content-Type"]) == (201, SDP)  # no charset
            assert re.fullmatch(r"/whip/[\w-]{27}", response.headers["Location"])
            assert re.fullmatch(r'"[\w-]+"', response.headers["ETag"])
            assert (await response.text()).startswith("v=0\r\n")
            assert here.registry.sessions == 1

    asyncio.run(run())


@pytest.mark.parametrize(("sdp", "status", "code"), REFUSED.values(), ids=REFUSED)
def test_a_bad_offer_has_the_contracts_status_and_costs_nothing(
    sdp: str, status: int, code: str
) -> None:
    async def run() -> None:
        async with server() as here:
            assert await code_of(await here.offer(sdp)) == (status, code)
            assert here.registry.sessions == 0
            assert here.here.block.get(TransceiverCounter.OFFERS_REFUSED) == 1
            assert not here.here.directory.routes

    asyncio.run(run())


def test_an_offer_that_cannot_be_answered_is_not_acceptable() -> None:
    async def run() -> None:
        async with server() as here:
            found = await code_of(await here.offer(CHROMIUM.replace("a=rtcp-mux\r\n", "")))
            assert found == (406, "not_acceptable")

    asyncio.run(run())


@pytest.mark.parametrize(("over", "status"), [(0, 201), (1, 413)])
def test_an_offer_has_at_most_64_kib(over: int, status: int) -> None:
    async def run() -> None:
        async with server() as here:
            padding = "a=x:" + "x" * (MAX_OFFER_BYTES + over - len(CHROMIUM) - 6) + "\r\n"

            assert (await here.offer(CHROMIUM + padding)).status == status

    asyncio.run(run())


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", ""])
def test_another_content_type_is_refused(content_type: str) -> None:
    async def run() -> None:
        async with server() as here:
            found = await code_of(await here.offer(content_type=content_type))
            assert found == (415, "content_type")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("charset", "body"),
    [
        ("no-such-charset", b"v=0\r\n"),
        ("utf-8", b"v=0\r\n\xff\xfe"),
        ("raw_unicode_escape", CHROMIUM.replace("ufrag:mS5D", "ufrag:\\ud800").encode()),
        ("idna", b"v=0." + b"a" * 100),
        ("hex", b"v=0"),
    ],
)
def test_a_body_in_a_strange_charset_is_the_clients_fault(charset: str, body: bytes) -> None:
    async def run() -> None:
        async with server() as here:
            headers = {"Content-Type": f"{SDP}; charset={charset}"}
            async with here.client.post("/whip", data=body, headers=headers) as response:
                assert 400 <= response.status < 500

    asyncio.run(run())


def test_a_client_that_does_not_send_its_body_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BODY_TIMEOUT_S", 0.05)

    async def run() -> None:
        async with server() as here:
            assert here.client.port is not None
            reader, writer = await asyncio.open_connection("127.0.0.1", here.client.port)
            head = f"POST /whip HTTP/1.1\r\nHost: [::1]:80\r\nContent-Type: {SDP}\r\nContent-Length: 9\r\n\r\n"
            writer.write(head.encode())
            async with asyncio.timeout(WAIT_S):
                status = await reader.readline()
            writer.close()
            await writer.wait_closed()
            assert b" 408 " in status

    asyncio.run(run())


@pytest.mark.parametrize(
    ("most", "error", "code"),
    [(0, "", "server_full"), (4, CONTROL_GONE, "no_route"), (4, "table full", "no_route")],
)
def test_an_offer_there_is_no_room_for_is_told_when_to_come_again(
    most: int, error: str, code: str
) -> None:
    async def run() -> None:
        async with server(most=most) as here:
            here.here.directory.error = error

            response = await here.offer()

            assert await code_of(response) == (503, code)
            assert int(response.headers["Retry-After"]) > 0

    asyncio.run(run())


def test_the_other_resources_are_there_and_405_names_what_is_allowed() -> None:
    async def run() -> None:
        async with server() as here:
            page = await here.client.get("/")
            assert (page.status, page.content_type) == (200, "text/html")
            assert await (await here.client.get("/info")).json() == {"version": "x"}
            options = await here.client.options("/whip")
            assert (options.status, options.headers["Accept-Post"]) == (204, SDP)
            wrong = await here.client.put("/whip")
            assert await code_of(wrong) == (405, "method_not_allowed")
            assert "POST" in wrong.headers["Allow"]

    asyncio.run(run())


def test_configured_turn_servers_are_linked() -> None:
    async def run() -> None:
        async with server(servers=[IceServer(("turn:192.0.2.1",), "u", "c")]) as here:
            response = await here.offer()

            link = '<turn:192.0.2.1>; rel="ice-server"; username="u"; credential="c"'
            assert response.headers["Link"] == link + '; credential-type="password"'
            asked = await here.client.options("/whip")
            assert asked.headers["Link"] == response.headers["Link"]

    asyncio.run(run())


def test_without_turn_servers_there_is_no_link() -> None:
    async def run() -> None:
        async with server() as here:
            assert "Link" not in (await here.offer()).headers

    asyncio.run(run())


def test_another_content_type_is_told_the_right_one() -> None:
    async def run() -> None:
        async with server() as here:
            assert (await here.offer(content_type="text/plain")).headers["Accept-Post"] == SDP

    asyncio.run(run())


@pytest.mark.parametrize("direction", ["recvonly", "sendrecv"])
def test_who_only_listens_is_answered_on_whep(direction: str) -> None:
    async def run() -> None:
        async with server() as here:
            sdp = CHROMIUM.replace("a=sendrecv", f"a={direction}")
            response = await here.client.post("/whep", data=sdp, headers={"Content-Type": SDP})

            assert response.status == 201
            assert "a=sendonly" in await response.text()
            location = response.headers["Location"]
            assert re.fullmatch(r"/whep/[\w-]{27}", location)
            etag = response.headers["ETag"]
            assert (await here.patch(location, TRICKLE, If_Match=etag)).status == 204
            options = await here.client.options("/whep")
            assert (options.status, options.headers["Accept-Post"]) == (204, SDP)
            assert (await here.client.delete(location)).status == 200

    asyncio.run(run())


@pytest.mark.parametrize(
    ("offered", "answered"),
    [("sendrecv", "sendrecv"), ("sendonly", "recvonly"), ("recvonly", "sendonly")],
)
def test_the_answer_has_the_offers_direction_in_mirror(offered: str, answered: str) -> None:
    async def run() -> None:
        async with server() as here:
            response = await here.offer(CHROMIUM.replace("a=sendrecv", f"a={offered}"))
            assert f"a={answered}\r\n" in await response.text()

    asyncio.run(run())
