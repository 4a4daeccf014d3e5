"""An app that makes its peer connections itself: its calls go through the relays, by the one UDP port."""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.support.server import Server, ServerError, server
from tests.support.tone_call import ToneCall
from voicerelay.cli.status import read_status

pytestmark = pytest.mark.system

APP = "tests.support.echo_asgi:app"
ENV = {"PYTHONPATH": str(Path(__file__).parents[2])}
RELAYS = TRANSCEIVERS = 2
GONE_S = 5.0


@pytest.fixture(scope="module")
def running(plane_options: list[str]) -> Iterator[Server]:
    with server(
        relays=RELAYS, transceivers=TRANSCEIVERS, app=APP, extra=plane_options, env=ENV
    ) as started:
        yield started


@contextlib.asynccontextmanager
async def calls(running: Server, count: int = 1) -> AsyncIterator[list[ToneCall]]:
    made = [ToneCall(f"{running.http_url}/api/offer") for _ in range(count)]
    async with aiohttp.ClientSession() as http:
        try:
            for call in made:
                await call.connect(http)
            yield made
        finally:
            for call in made:
                await call.close()


async def ask(running: Server, **body: Any) -> dict[str, Any]:
    """A request on a connection of its own, so that any transceiver may get it."""
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{running.http_url}/any", json=body) as response,
    ):
        told: dict[str, Any] = await response.json()
        return told


async def sessions_become(running: Server, count: int) -> bool:
    deadline = time.monotonic() + GONE_S
    while time.monotonic() < deadline:
        if read_status(running.run_dir)["sessions"] == count:
            return True
        await asyncio.sleep(0.02)
    return False


def udp_ports(running: Server) -> list[int]:
    """Local ports of all UDP sockets that the transceivers have open."""
    pids = [transceiver["pid"] for transceiver in read_status(running.run_dir)["transceivers"]]
    sockets = [s for pid in pids for s in psutil.Process(pid).net_connections("udp")]
    return [found.laddr.port for found in sockets]


def test_a_call_is_heard_through_the_one_port(running: Server, plane: str) -> None:
    async def scenario() -> None:
        async with calls(running) as (call,):
            assert await call.hears_tone()

            # ICE-lite, one candidate in each section, and no socket beside the public ones
            sdp = call.answer["sdp"]
            assert "a=ice-lite" in sdp
            candidates = set(re.findall(r"a=candidate:.*", sdp))
            assert candidates == {
                f"a=candidate:1 1 udp 2130706431 127.0.0.1 {running.port} typ host\r"
            }
            assert set(udp_ports(running)) == {running.port}

            # a packet without a relay comes only where the kernel steers
            status = read_status(running.run_dir)
            assert status["sessions"] == 1
            assert (sum(r["packets_forwarded"] for r in status["relays"]) > 50) == (
                plane == "portable"
            )

    asyncio.run(scenario())


def test_what_names_a_call_reaches_its_owner(running: Server) -> None:
    async def scenario() -> None:
        async with calls(running) as (call,):
            name = call.answer["pc_id"]

            told = [await ask(running, pc_id=name) for _ in range(16)]
            others = [await ask(running) for _ in range(16)]

            assert {(t["pid"], t["known"]) for t in told} == {(call.answer["pid"], True)}
            assert len({t["pid"] for t in others}) == TRANSCEIVERS

    asyncio.run(scenario())


def test_offers_are_shared_among_the_transceivers(running: Server) -> None:
    async def scenario() -> None:
        async with calls(running, 4) as made:  # on one connection
            loads = [t["sessions"] for t in read_status(running.run_dir)["transceivers"]]
            assert sum(loads) == 4
            assert abs(loads[0] - loads[1]) <= 2
            for call in made:  # one that is left in its handshake would last until a time-out
                assert await call.hears_tone(0.1)

    asyncio.run(scenario())


def test_a_call_that_is_over_leaves_nothing(running: Server) -> None:
    async def scenario() -> None:
        assert await sessions_become(running, 0)
        async with calls(running) as (call,):
            assert await call.hears_tone(0.2)
            assert read_status(running.run_dir)["sessions"] == 1

        assert await sessions_become(running, 0)
        status = read_status(running.run_dir)
        assert (status["routes"], status["flows"]) == (0, 0)

    asyncio.run(scenario())


def test_a_full_server_says_so(plane_options: list[str]) -> None:
    extra = ["--max-sessions", "1", *plane_options]
    with server(relays=1, transceivers=1, app=APP, extra=extra, env=ENV) as full:

        async def scenario() -> None:
            async with calls(full, 2) as (first, second):
                assert (first.status, second.status) == (200, 503)
                assert second.headers["Retry-After"]
                assert second.answer["error"]["code"] == "server_full"
                assert await first.hears_tone(0.2)

        asyncio.run(scenario())


def test_callers_are_told_when_the_server_stops(plane_options: list[str]) -> None:
    async def scenario() -> None:
        with server(relays=1, transceivers=1, app=APP, extra=plane_options, env=ENV) as stopping:
            async with calls(stopping) as (call,):
                assert await call.hears_tone(0.2)
                stopped = asyncio.get_running_loop().run_in_executor(None, stopping.stop)

                async with asyncio.timeout(GONE_S):
                    await call.over.wait()
                assert await stopped == 0
                assert "Traceback" not in stopping.output, stopping.output

    asyncio.run(scenario())


def test_an_app_whose_start_up_fails_is_told_so() -> None:
    broken = "tests.support.echo_asgi:broken"

    with (
        pytest.raises(ServerError, match="its own start-up"),
        server(relays=1, transceivers=1, app=broken, env=ENV),
    ):
        pass
