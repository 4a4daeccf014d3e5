"""Callers behind a NAT that gives them another public address, or their address to somebody else."""

import asyncio
import time
from collections.abc import Iterator, Sequence

import pytest

from tests.support import netns
from tests.support.callers import callers, heard_all
from tests.support.client import PACKET_S, Call
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
OTHER_PORT = (BEFORE[0], BEFORE[1] + 1000)
OTHER_ADDRESS = (NAT_ADDRESSES[1], BEFORE[1])
WORDS = bytes.fromhex("c0ffee")  # in the payloads of one client, never in the other's


@pytest.fixture
def net() -> Iterator[NatNetwork]:
    with netns.behind_nat(clients=2) as network:
        yield network


@pytest.fixture
def echo(net: NatNetwork, plane_options: Sequence[str]) -> Iterator[Server]:
    with netns.serving(net.server, listen=[SERVER_V4], extra=plane_options) as running:
        yield running


def flow(running: Server, public: tuple[str, int]) -> Entry | None:
    """The record of a client address in the server's flow table."""
    region = Region.attach(rundir.region_name(running.run_dir))
    try:
        return region.flow_reader().find(pack_path(0, *public))
    finally:
        region.close()


async def sessions(running: Server) -> tuple[int, int]:
    """How many there are, and how many there ever were."""
    status = await asyncio.to_thread(running.status)
    return status["sessions"], sum(t["sessions_started"] for t in status["transceivers"])


async def heard_again(call: Call) -> int:
    """Talk until what is said from now on comes back; the number of the first such packet."""
    now = call.sent
    async with asyncio.timeout(AUDIBLE_AGAIN_S):
        while not any(number >= now for number in call.numbers()):
            await call.talk(0.1)
    return min(number for number in call.numbers() if number >= now)


async def heard_well(call: Call, since: int, words: bytes = bytes(71)) -> bool:
    """Talk for a second; whether every packet from number `since` on comes back, and only once."""
    for _ in range(round(1 / PACKET_S)):
        await call.send(b"\x78" + call.sent.to_bytes(8, "big") + words)
        await asyncio.sleep(PACKET_S)
    return await heard_all(call, since) and len(call.received) == len(set(call.numbers()))


@pytest.mark.parametrize("after", [OTHER_PORT, OTHER_ADDRESS], ids=["port", "address"])
def test_call_is_heard_again_after_the_nat_has_rebound(
    net: NatNetwork, echo: Server, after: tuple[str, int]
) -> None:
    async def scenario() -> None:
        # Given a call that the server sees at its first public address
        async with callers(echo.http_url, 1) as ([call], _):
            assert await heard_well(call, 0)
            known = flow(echo, BEFORE)
            assert known is not None
            assert flow(echo, after) is None

            # When the NAT gives it another one in mid-sentence
            rebound_at = time.monotonic()
            await asyncio.to_thread(net.rebind, {0: after})
            first = await heard_again(call)

            # Then both directions come back by the next check, for good
            gap_s = call.longest_gap_s(since=rebound_at - 1)
            print(f"audible again after {gap_s:.2f} s")  # noqa: T201 - a figure for pytest -rP
            assert await heard_well(call, first)
            found = flow(echo, after)
            assert found is not None
            assert found[:3] == known[:3]

            # and once more when it changes back: the server still takes packets from there
            await asyncio.to_thread(net.rebind, {0: BEFORE})
            assert await heard_well(call, await heard_again(call))

            # all in the same call
            assert call.connected
            assert await sessions(echo) == (1, 1)

    with net.clients[0].entered():
        asyncio.run(scenario())


@pytest.mark.parametrize(
    ("hangs_up", "extra"),
    [
        (True, ()),
        (False, ("--transceivers", "1")),
        # A full transceiver hands the new call to the other: the flow changes its owner.
        (False, ("--transceivers", "2", "--max-sessions", "1")),
    ],
    ids=["hung up", "vanished", "vanished, elsewhere"],
)
def test_reused_public_port_belongs_to_the_new_call(
    net: NatNetwork, plane_options: Sequence[str], hangs_up: bool, extra: Sequence[str]
) -> None:
    async def old_client(echo: Server) -> Entry:
        async with callers(echo.http_url, 1) as ([call], http):
            assert await heard_well(call, 0)
            old = flow(echo, BEFORE)
            assert old is not None
            if hangs_up:
                assert await call.hang_up(http) == 200
            # Before it closes: without a mapping its goodbye does not reach the server.
            await asyncio.to_thread(net.rebind, {1: BEFORE})
            return old

    async def new_client(echo: Server, old: Entry) -> None:
        async with callers(echo.http_url, 1) as ([call], _):
            assert await heard_well(call, 0, WORDS)

            assert all(packet.payload.endswith(WORDS) for packet in call.received)
            found = flow(echo, BEFORE)
            assert found is not None
            assert found[:3] != old[:3]
            assert await sessions(echo) == ((1, 2) if hangs_up else (2, 2))

    with netns.serving(net.server, listen=[SERVER_V4], extra=[*plane_options, *extra]) as echo:
        # Given a call that is over, or whose client is just gone
        with net.clients[0].entered():
            old = asyncio.run(old_client(echo))

        # When another client gets that very address and port and calls
        # Then it hears all that it says, and nothing else
        with net.clients[1].entered():
            asyncio.run(new_client(echo, old))
