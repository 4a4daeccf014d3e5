"""WHIP as clients see it (RFC 9725): every status of the contract, and requests that land elsewhere."""

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession, web
from aiohttp.test_utils import TestClient, TestServer

from tests.support.client import Call
from tests.unit.transceiver.test_offer import CHROMIUM, REFUSED
from tests.unit.transceiver.test_session import WAIT_S, Host, ice_of, listen
from tests.unit.transceiver.test_session import host as session_host
from voicerelay.echo import echo
from voicerelay.shm.counters import COUNTERS_BYTES, MAX_TRANSCEIVERS, Counters, TransceiverCounter
from voicerelay.shm.rundir import http_socket
from voicerelay.transceiver import signalling as module
from voicerelay.transceiver.agent import Agent
from voicerelay.transceiver.directory import CONTROL_GONE
from voicerelay.transceiver.offer import MAX_OFFER_BYTES
from voicerelay.transceiver.registry import Registry, session_id
from voicerelay.transceiver.sdpfrag import MAX_FRAGMENT_BYTES, parse_fragment
from voicerelay.transceiver.siblings import Siblings
from voicerelay.transceiver.signalling import SDP, SDP_FRAGMENT, Signalling

OURS, THEIRS, NOBODYS = 1, 2, 3
RESTART = "a=ice-ufrag:efgh\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\n"
TRICKLE = "a=candidate:1 1 udp 2130706431 x.local 50000 typ host\r\n"


class Server:
    """One transceiver's HTTP; `here` is all behind it."""

    def __init__(
        self, here: Host, run_dir: Path, counters: Counters, slot: int, most: int, agent: Agent
    ) -> None:
        self.here = here
        here.block = counters.transceiver(slot)
        here.block.claim()
        here.mux._block = here.block
        self.registry = Registry(
            slot, agent, here.mux, here.directory, here.block, here.candidates, most
        )
        self.registry.cluster_key = b"k" * 32
        self.siblings = Siblings(run_dir, slot)
        info = {"version": "x"}
        self.signalling = Signalling(self.registry, self.siblings, counters, here.block, info)
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
) -> AsyncIterator[Server]:
    async with contextlib.AsyncExitStack() as stack:
        folder = run_dir or Path(stack.enter_context(TemporaryDirectory()))
        here = await stack.enter_async_context(session_host())
        shared = counters or Counters(memoryview(bytearray(COUNTERS_BYTES)))
        made = Server(here, folder, shared, slot, most, agent)
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

            assert (response.status, response.content_type) == (201, SDP)
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
            head = f"POST /whip HTTP/1.1\r\nHost: x\r\nContent-Type: {SDP}\r\nContent-Length: 9\r\n\r\n"
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


# ---- sessions ------------------------------------------------------------------------------------


def test_delete_ends_a_session_once() -> None:
    async def run() -> None:
        async with server() as here:
            location = (await here.offer()).headers["Location"]

            statuses = [(await here.client.delete(location)).status for _ in range(2)]

            assert statuses == [200, 404]
            assert (here.registry.sessions, here.here.directory.routes) == (0, {})

    asyncio.run(run())


@pytest.mark.parametrize(
    "public_id", ["unknown", "x" * 200, session_id(0, OURS), session_id(0, NOBODYS), "%00", "%ff"]
)
def test_an_unknown_session_is_not_found(public_id: str) -> None:
    async def run() -> None:
        async with server() as here:
            found = [
                (await here.client.delete(f"/whip/{public_id}")).status,
                (await here.patch(f"/whip/{public_id}", TRICKLE, If_Match='"x"')).status,
                (await here.client.get(f"/sessions/{public_id}")).status,
            ]
            assert found == [404] * 3

    asyncio.run(run())


def test_guessed_ids_are_not_remembered_for_slots_that_cannot_exist() -> None:
    async def run() -> None:
        async with server() as here:
            for slot in range(0, 0xFFFF, 101):
                assert (await here.client.get(f"/sessions/{session_id(0, slot)}")).status == 404

            assert len(here.siblings._clients) <= MAX_TRANSCEIVERS

    asyncio.run(run())


PATCHES: dict[str, tuple[str, dict[str, str], tuple[int, str]]] = {
    "no If-Match": (TRICKLE, {}, (428, "precondition_required")),
    "old ETag": (TRICKLE, {"If_Match": '"old"'}, (412, "precondition_failed")),
    "not a fragment": ("x", {"If_Match": '"old"'}, (400, "malformed_sdpfrag")),
    "bad ufrag": ("a=ice-ufrag:x\r\n", {"If_Match": "*"}, (400, "malformed_sdpfrag")),
    "restart without": (TRICKLE, {"If_Match": "*"}, (400, "no_ice_credentials")),
    "too long": ("a=x\r\n" * MAX_FRAGMENT_BYTES, {"If_Match": "*"}, (413, "")),
    "a bit too long": ("a=x\r\n" * (MAX_FRAGMENT_BYTES // 4), {"If_Match": "*"}, (413, "")),
    "another type": (TRICKLE, {"If_Match": "*", "Content_Type": SDP}, (415, "content_type")),
}


@pytest.mark.parametrize(("body", "headers", "expected"), PATCHES.values(), ids=PATCHES)
def test_a_bad_patch_has_the_contracts_status_and_changes_nothing(
    body: str, headers: dict[str, str], expected: tuple[int, str]
) -> None:
    async def run() -> None:
        async with server() as here:
            location = (await here.offer()).headers["Location"]
            routes = dict(here.here.directory.routes)

            status, code = await code_of(await here.patch(location, body, **headers))

            assert status == expected[0]
            assert expected[1] in code
            assert here.here.directory.routes == routes

    asyncio.run(run())


def test_trickle_is_accepted_and_ignored() -> None:
    async def run() -> None:
        async with server() as here:
            created = await here.offer()

            for body in (TRICKLE, "a=end-of-candidates\r\n", ""):
                found = await here.patch(
                    created.headers["Location"], body, If_Match=created.headers["ETag"]
                )
                assert (found.status, await found.read()) == (204, b"")

    asyncio.run(run())


@pytest.mark.parametrize("star", ["*", '"*"'])
def test_a_restart_gives_new_credentials_and_a_new_etag(star: str) -> None:
    async def run() -> None:
        async with server() as here:
            # given a session
            created = await here.offer()
            location, old = created.headers["Location"], created.headers["ETag"]
            session = here.registry.get(location.rpartition("/")[2])
            assert session is not None
            before = session.ufrag

            # when the client restarts ICE
            response = await here.patch(location, RESTART, If_Match=star)

            # then the answer carries what the session now uses
            fragment = parse_fragment(await response.text())
            assert (response.status, response.content_type) == (200, SDP_FRAGMENT)
            assert (fragment.ufrag, fragment.password) == (session.ufrag, session.password)
            assert fragment.ufrag != before
            assert fragment.candidates == 1
            assert ice_of(session).credentials.remote_ufrag == b"efgh"

            # and only the new ETag is good
            new = response.headers["ETag"]
            tags = [(await here.patch(location, TRICKLE, If_Match=tag)).status for tag in (old, new)]
            assert tags == [412, 204]

    asyncio.run(run())


def test_a_restart_without_control_fails_and_keeps_the_session() -> None:
    async def run() -> None:
        async with server() as here:
            created = await here.offer()
            location, etag = created.headers["Location"], created.headers["ETag"]
            here.here.directory.error = CONTROL_GONE

            response = await here.patch(location, RESTART, If_Match="*")

            assert await code_of(response) == (503, "no_route")
            assert (await here.patch(location, TRICKLE, If_Match=etag)).status == 204

    asyncio.run(run())


# ---- siblings ------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def two(most: int = 4) -> AsyncIterator[tuple[Server, Server]]:
    """Two transceivers of one host."""
    counters = Counters(memoryview(bytearray(COUNTERS_BYTES)))
    with TemporaryDirectory() as folder:
        async with (
            server(counters, Path(folder), OURS, most) as ours,
            server(counters, Path(folder), THEIRS) as theirs,
        ):
            yield ours, theirs


def test_requests_for_a_siblings_session_reach_it() -> None:
    async def run() -> None:
        async with two() as (ours, theirs):
            # given a session of the other one
            created = await theirs.offer()
            location, etag = created.headers["Location"], created.headers["ETag"]
            public_id = location.rpartition("/")[2]

            # when all its requests land here
            told: dict[str, Any] = await (await ours.client.get(f"/sessions/{public_id}")).json()
            trickled = await ours.patch(location, TRICKLE, If_Match=etag)
            restarted = await ours.patch(location, RESTART, If_Match="*")
            deleted = await ours.client.delete(location)

            # then they are answered as if they had landed there
            assert (told["session"], told["transceiver"]) == (public_id, THEIRS)
            assert (trickled.status, restarted.status, deleted.status) == (204, 200, 200)
            assert restarted.headers["ETag"] != etag
            assert theirs.registry.sessions == 0
            assert (await ours.client.delete(location)).status == 404

    asyncio.run(run())


def test_a_full_transceiver_hands_an_offer_to_one_with_room() -> None:
    async def run() -> None:
        async with two(most=0) as (ours, theirs):
            response = await ours.offer()

            assert response.status == 201
            assert (ours.registry.sessions, theirs.registry.sessions) == (0, 1)

    asyncio.run(run())


def test_calls_are_spread_until_none_has_two_more_than_another() -> None:
    async def run() -> None:
        async with two() as (ours, theirs):
            for _ in range(6):
                assert (await ours.offer()).status == 201

            assert abs(ours.registry.sessions - theirs.registry.sessions) <= 2
            assert ours.registry.sessions + theirs.registry.sessions == 6

    asyncio.run(run())


def test_when_no_sibling_can_the_offer_is_answered_here() -> None:
    async def run() -> None:
        async with two() as (ours, theirs):
            # given a sibling without control, which looks empty
            theirs.here.directory.error = CONTROL_GONE

            statuses = [(await ours.offer()).status for _ in range(4)]

            assert statuses == [201] * 4
            assert ours.registry.sessions == 4
            assert (await ours.offer()).status == 503

    asyncio.run(run())


# ---- a whole call --------------------------------------------------------------------------------


def test_a_stock_client_calls_hears_its_echo_and_hangs_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run() -> None:
        async with server(agent=echo) as here, ClientSession() as http:
            # given a stock WebRTC client that has called
            call = Call(str(here.client.make_url("")).rstrip("/"))
            await call.connect(http)

            # when it talks until it has heard ten packets
            async with asyncio.timeout(WAIT_S):
                while len(call.received) < 10:
                    await call.talk(0.1)

            # then it hears itself, in order, and the figures agree
            numbers = call.numbers()
            assert numbers == sorted(set(numbers))
            public_id = call.resource.rpartition("/")[2]
            told = await (await here.client.get(f"/sessions/{public_id}")).json()
            assert (told["state"], told["ice"], told["dtls"]) == (
                "connected",
                "completed",
                "connected",
            )
            assert await call.hang_up(http) == 200
            await call.close()
            received, accounted = here.here.balance()
            assert received == accounted

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
