"""Callers behind a NAT that gives them another public address, or their address to somebody else."""

import asyncio
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support import netns
from tests.support.callers import callers, heard_all
from tests.support.client import Call
from tests.support.netns import FIRST_PUBLIC_PORT, NAT_ADDRESSES, SERVER_V4, NatNetwork
from tests.support.server import Server
from voicerelay.shm import rundir
from voicerelay.shm.path import pack_path
from voicerelay.shm.region import Region
from voicerelay.shm.table import Entry

pytestmark = [
    pytest.mark.netns,
    pytest.mark.system,
    pytest.mark.skipif(bool(netns.obstacle()), reason=netns.obstacle()),
]

# aioice sends a consent check every 4 to 6 s; only that tells the server of the new address.
AUDIBLE_AGAIN_S = 12
BEFORE = (NAT_ADDRESSES[0], FIRST_PUBLIC_PORT)
WORDS = bytes.fromhex("c0ffee")  # in the payloads of one client, never in the other's


@pytest.fixture
def net() -> Iterator[NatNetwork]:
    with netns.behind_nat(clients=2) as network:
        yield network


@pytest.fixture
def echo(net: NatNetwork) -> Iterator[Server]:
    with netns.serving(net.server, listen=[SERVER_V4]) as running:
        yield running


def flow(running: Server, public: tuple[str, int]) -> Entry | None:
    """The record of a client address in the server's flow table."""
    region = Region.attach(rundir.region_name(running.run_dir))
    try:
        return region.flow_reader().find(pack_path(0, *public))
    finally:
        region.close()


async def talk_until(call: Call, condition: Callable[[], bool], patience_s: float) -> float:
    """Talk until something is so; returns after how many seconds it was."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < patience_s, f"not within {patience_s} s"
        await call.talk(0.1)
    return time.monotonic() - start


@pytest.mark.parametrize(
    "after",
    [(BEFORE[0], BEFORE[1] + 1000), (NAT_ADDRESSES[1], BEFORE[1])],
    ids=["another port", "another address"],
)
def test_call_is_heard_again_after_the_nat_has_rebound(
    net: NatNetwork, echo: Server, after: tuple[str, int]
) -> None:
    async def scenario() -> None:
        # Given a call that is heard, seen by the server under its first public address
        async with callers(echo.http_url, 1) as ([call], _):
            await call.talk(1)
            assert await heard_all(call, 0)
            known = flow(echo, BEFORE)
            assert known is not None
            assert flow(echo, after) is None

            # When the NAT gives it another one in mid-sentence
            await asyncio.to_thread(net.rebind, {0: after})
            rebound, at = call.sent, time.monotonic()
            await talk_until(call, lambda: call.numbers()[-1] >= rebound, AUDIBLE_AGAIN_S)
            back = next(n for n in call.numbers() if n >= rebound)

            # Then both directions come back, by the next check, and for good
            gap_s = call.longest_gap_s(since=at - 1)
            print(f"audible again after {gap_s:.2f} s")  # noqa: T201 - a figure for pytest -rP
            await call.talk(2)
            assert await heard_all(call, back)
            assert call.connected
            # and it is still the same call
            found = flow(echo, after)
            assert found is not None
            assert found[:3] == known[:3]
            status = await asyncio.to_thread(echo.status)
            assert status["sessions"] == 1
            assert sum(t["sessions_started"] for t in status["transceivers"]) == 1

    with net.clients[0].entered():
        asyncio.run(scenario())


def test_two_rebindings_in_one_call(net: NatNetwork, echo: Server) -> None:
    async def scenario() -> None:
        async with callers(echo.http_url, 1) as ([call], _):
            await call.talk(1)
            assert await heard_all(call, 0)

            # The second one leads back to an address that the server still holds as its own.
            for public in ((NAT_ADDRESSES[1], BEFORE[1]), BEFORE):
                await asyncio.to_thread(net.rebind, {0: public})
                rebound = call.sent
                await talk_until(call, lambda: call.numbers()[-1] >= rebound, AUDIBLE_AGAIN_S)  # noqa: B023

            since = call.sent
            await call.talk(1)
            assert await heard_all(call, since)
            assert (await asyncio.to_thread(echo.status))["sessions"] == 1

    with net.clients[0].entered():
        asyncio.run(scenario())


@pytest.mark.parametrize("hung_up", [True, False], ids=["hung up", "vanished"])
def test_reused_public_port_belongs_to_the_new_call(
    net: NatNetwork, echo: Server, hung_up: bool
) -> None:
    async def newcomer(first: Call) -> None:
        # When another client gets that very address and port, and calls
        async with callers(echo.http_url, 1) as ([second], _):
            before = len(first.received)
            for number in range(50):
                await second.send(b"\x78" + number.to_bytes(8, "big") + WORDS)
                second.sent = number + 1
                await asyncio.sleep(0.02)

            # Then it hears all of what it said itself, nothing else, and nobody else hears it
            assert await heard_all(second, 0)
            assert all(packet.payload.endswith(WORDS) for packet in second.received)
            assert len(first.received) == before
            found = flow(echo, BEFORE)
            assert found is not None
            status = await asyncio.to_thread(echo.status)
            assert status["sessions"] == (1 if hung_up else 2)
            assert sum(t["sessions_started"] for t in status["transceivers"]) == 2

    async def scenario() -> None:
        # Given a call that is over, or whose client is just gone
        async with callers(echo.http_url, 1) as ([first], http):
            await first.talk(1)
            assert await heard_all(first, 0)
            if hung_up:
                assert await first.hang_up(http) == 200
            await asyncio.to_thread(net.rebind, {1: BEFORE})
            with net.clients[1].entered():
                await asyncio.to_thread(lambda: asyncio.run(newcomer(first)))

    with net.clients[0].entered():
        asyncio.run(scenario())
