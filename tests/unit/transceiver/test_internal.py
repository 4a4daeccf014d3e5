"""Figures and calls on the operators' socket: listed, shown, ended, and never on the clients' port."""

import asyncio
import contextlib
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from tests.unit.transceiver.signalling.test_whip import server
from tests.unit.transceiver.test_registry import SLOT, create, registry
from tests.unit.transceiver.test_session import Host, host
from voicerelay.shm import rundir
from voicerelay.shm.order import DRAIN, MAX_DEADLINE_S, OPEN, Order
from voicerelay.transceiver.internal import ENDED, MAX_REASON_CHARS, Internal
from voicerelay.transceiver.registry import Registry

Client = TestClient[Any, Any]
DEADLINE_S = 60
ORDERS: list[Order] = []


@contextlib.asynccontextmanager
async def operator() -> AsyncIterator[tuple[Client, Host, Registry]]:
    async with host() as here:
        made = registry(here)
        about = made, here.block, here.pacer, "mine:app"
        app = Internal(*about, obey=ORDERS.append, drain_deadline_s=DEADLINE_S).application()
        async with TestClient(TestServer(app)) as client:
            yield client, here, made


async def told(client: Client, path: str) -> Any:
    response = await client.get(path)
    assert response.status == 200
    return await response.json()


def test_all_calls_are_listed_and_each_is_shown() -> None:
    async def run() -> None:
        async with operator() as (client, here, made):
            first, second = await create(here, made), await create(here, made)

            listed = await told(client, "/internal/sessions")
            shown = await told(client, f"/internal/sessions/{first.short_id}")

            assert {one["id"] for one in listed} == {first.id, second.id}
            assert {one["slot"] for one in listed} == {SLOT}
            assert (shown["id"], shown["agent"], shown["ice"]) == (first.id, "mine:app", "new")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("", ENDED),
        ("?reason=too%20loud", f"{ENDED}: too loud"),
        ("?reason=a%0Ab%1B[31m", f"{ENDED}: ab[31m"),
        ("?reason=" + "x" * 1000, f"{ENDED}: " + "x" * MAX_REASON_CHARS),
    ],
)
def test_a_call_is_ended_and_the_reason_is_one_line(query: str, reason: str) -> None:
    async def run() -> None:
        async with operator() as (client, here, made):
            session = await create(here, made)

            response = await client.delete(f"/internal/sessions/{session.short_id}{query}")

            assert response.status == 200
            assert session.end_reason == reason
            await session.ended.wait()
            assert await told(client, "/internal/sessions") == []

    asyncio.run(run())


def test_a_drain_is_an_order_with_a_deadline() -> None:
    async def run() -> None:
        async with operator() as (client, _, _):
            statuses = [
                (await client.put("/internal/drain")).status,
                (await client.put("/internal/drain?deadline=0")).status,
                (await client.delete("/internal/drain")).status,
            ]

            assert statuses == [200] * 3
            assert [Order(DRAIN, DEADLINE_S), Order(DRAIN, 0), Order(OPEN)] == ORDERS

    ORDERS.clear()
    asyncio.run(run())


@pytest.mark.parametrize("deadline", ["", "-1", "1.5", "x", "1 2", str(MAX_DEADLINE_S + 1)])
def test_a_deadline_that_is_none_orders_nothing(deadline: str) -> None:
    async def run() -> None:
        async with operator() as (client, _, _):
            response = await client.put("/internal/drain", params={"deadline": deadline})

            assert response.status == 400
            assert ORDERS == []

    ORDERS.clear()
    asyncio.run(run())


def test_a_call_that_nobody_has_is_not_found() -> None:
    async def run() -> None:
        async with operator() as (client, here, made):
            await create(here, made)

            for wanted in ("nobody", "", "%2e%2e", "x" * 500):
                path = f"/internal/sessions/{wanted}"
                assert (await client.get(path)).status == 404
                assert (await client.delete(path)).status == 404

    asyncio.run(run())


def test_figures_are_of_the_process_and_its_calls() -> None:
    async def run() -> None:
        async with operator() as (client, here, made):
            await create(here, made)
            made.figures.loop_lag.observe(0.002)

            figures = await told(client, "/internal/figures")

            assert (figures["slot"], figures["sessions"], figures["draining"]) == (SLOT, 1, False)
            assert sum(figures["loop_lag_s"]["counts"]) == 1
            assert set(figures["rtp"]) >= {"lost_in", "lost_out", "bytes_in"}

    asyncio.run(run())


def test_the_socket_is_for_its_owner_and_group() -> None:
    async def run() -> None:
        async with host() as here:
            made = Internal(registry(here), here.block, here.pacer, "x")
            with TemporaryDirectory() as folder:
                path = rundir.figures_socket(Path(folder), SLOT)
                path.touch()  # left by a predecessor

                await made.start(Path(folder))

                assert stat.S_IMODE(path.stat().st_mode) == rundir.SOCKET_MODE
                await made.stop()

    asyncio.run(run())


def test_clients_and_siblings_do_not_find_it() -> None:
    async def run() -> None:
        async with server() as here:
            await here.offer()

            for path in ("/internal/sessions", "/internal/figures"):
                assert (await here.client.get(path)).status == 404
                application = here.signalling.application(internal=True)
                assert all(
                    not str(r.resource.canonical).startswith("/internal")
                    for r in application.router.routes()
                    if r.resource
                )

    asyncio.run(run())
