"""Requests that land at another transceiver than the session's, and a whole call with its echo."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from aiohttp import ClientSession

from tests.support.client import Call
from tests.unit.transceiver.signalling.test_whip import (
    OPEN,
    OURS,
    RESTART,
    THEIRS,
    TRICKLE,
    Server,
    server,
)
from tests.unit.transceiver.test_session import WAIT_S
from voicerelay.echo import echo
from voicerelay.shm.counters import COUNTERS_BYTES, Counters
from voicerelay.transceiver.directory import CONTROL_GONE
from voicerelay.transceiver.settings import AccessSettings

# ---- siblings ------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def two(most: int = 4, access: AccessSettings = OPEN) -> AsyncIterator[tuple[Server, Server]]:
    """Two transceivers of one host."""
    counters = Counters(memoryview(bytearray(COUNTERS_BYTES)))
    table: dict[bytes, int] = {}
    with TemporaryDirectory() as folder:
        async with (
            server(counters, Path(folder), OURS, most, access=access, table=table) as ours,
            server(counters, Path(folder), THEIRS, access=access, table=table) as theirs,
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
