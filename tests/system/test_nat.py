"""Callers behind a NAT that gives them another public address, or their address to somebody else."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.support import netns
from tests.support.callers import PATIENCE_S, callers, heard_all
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


async def sessions(running: Server) -> tuple[int, int]:
    """How many there are, and how many there ever were."""
    status = await asyncio.to_thread(running.status)
    return status["sessions"], sum(t["sessions_started"] for t in status["transceivers"])


async def talk_until(call: Call, condition: Callable[[], bool], patience_s: float) -> None:
    """Talk until something is so."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {patience_s} s"
        await call.talk(0.1)


async def heard_again(call: Call) -> int:
    """Talk until what is said from now on comes back; the number of the first such packet."""
    now = call.sent
    await talk_until(call, lambda: call.numbers()[-1] >= now, AUDIBLE_AGAIN_S)
    return min(number for number in call.numbers() if number >= now)


async def say(call: Call, seconds: float, words: bytes) -> None:
    """Talk in numbered packets that end in `words`."""
    for _ in range(int(seconds / PACKET_S)):
        await call.send(b"\x78" + call.sent.to_bytes(8, "big") + words)
        await asyncio.sleep(PACKET_S)


async def heard_well(call: Call, words: bytes = b"") -> bool:
    """Talk for a second; whether every packet of it comes back."""
    async with asyncio.timeout(PATIENCE_S):
        while not call.received:  # the very first packets may overtake the end of the handshake
            await say(call, 0.1, words)
    since = call.sent
    await say(call, 1, words)
    return await heard_all(call, since)


@pytest.mark.parametrize("after", [OTHER_PORT, OTHER_ADDRESS], ids=["port", "address"])
def test_call_is_heard_again_after_the_nat_has_rebound(
    net: NatNetwork, echo: Server, after: tuple[str, int]
) -> None:
    async def scenario() -> None:
        # Given a call that the server sees at its first public address
        async with callers(echo.http_url, 1) as ([call], _):
            assert await heard_well(call)
            known = flow(echo, BEFORE)
            assert known is not None
            assert flow(echo, after) is None

            # When the NAT gives it another one in mid-sentence
            rebound_at = time.monotonic()
            await asyncio.to_thread(net.rebind, {0: after})
            first = await heard_again(call)

            # Then both directions come back by the next check, for good, in the same call
            gap_s = call.longest_gap_s(since=rebound_at - 1)
            print(f"audible again after {gap_s:.2f} s")  # noqa: T201 - a figure for pytest -rP
            await call.talk(1)
            assert await heard_all(call, first)
            assert len(call.received) == len(set(call.numbers()))
            assert call.connected
            found = flow(echo, after)
            assert found is not None
            assert found[:3] == known[:3]
            assert await sessions(echo) == (1, 1)

    with net.clients[0].entered():
        asyncio.run(scenario())


def test_call_may_come_back_to_an_address_it_had_before(net: NatNetwork, echo: Server) -> None:
    async def scenario() -> None:
        async with callers(echo.http_url, 1) as ([call], _):
            assert await heard_well(call)

            await asyncio.to_thread(net.rebind, {0: OTHER_ADDRESS})
            await heard_again(call)
            await asyncio.to_thread(net.rebind, {0: BEFORE})
            # The server still takes packets from there, so the media itself tells of the move.
            first = await heard_again(call)

            await call.talk(1)
            assert await heard_all(call, first)
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
    net: NatNetwork, hangs_up: bool, extra: Sequence[str]
) -> None:
    async def old_client(echo: Server) -> Entry:
        async with callers(echo.http_url, 1) as ([call], http):
            assert await heard_well(call)
            old = flow(echo, BEFORE)
            assert old is not None
            if hangs_up:
                assert await call.hang_up(http) == 200
            # Before it closes: without a mapping its goodbye does not reach the server.
            await asyncio.to_thread(net.rebind, {1: BEFORE})
            return old

    async def new_client(echo: Server, old: Entry) -> None:
        async with callers(echo.http_url, 1) as ([call], _):
            assert await heard_well(call, WORDS)

            assert all(packet.payload.endswith(WORDS) for packet in call.received)
            found = flow(echo, BEFORE)
            assert found is not None
            assert found[:3] != old[:3]
            assert await sessions(echo) == ((1, 2) if hangs_up else (2, 2))

    with netns.serving(net.server, listen=[SERVER_V4], extra=extra) as echo:
        # Given a call that is over, or whose client is just gone
        with net.clients[0].entered():
            old = asyncio.run(old_client(echo))

        # When another client gets that very address and port and calls
        # Then it hears all that it says, and nothing else
        with net.clients[1].entered():
            asyncio.run(new_client(echo, old))
