"""Kernel steering with real processes: calls without a relay, deaths, starts and ends."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.support.callers import callers, calls_work, nothing_was_lost, talk_all
from tests.support.client import Call
from tests.support.server import Server, server
from tests.system.conftest import steering_unavailable
from voicerelay.cli.status import read_status, render
from voicerelay.shm.bpf import BPFFS

pytestmark = pytest.mark.system

CALLS = 10
PACKETS_A_SECOND = 50
PATIENCE_S = 15.0
ON = ("--steering", "on")


@pytest.fixture(scope="module", autouse=True)
def _kernel_steers() -> None:
    if reason := steering_unavailable():
        pytest.skip(f"kernel steering: {reason}")


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with server(relays=2, transceivers=2, extra=ON) as started:
        yield started


async def wait_for(condition: Callable[[], Any], what: str) -> None:
    """Poll a cheap condition; fail with `what` when it does not come true."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s for {what}"
        await asyncio.sleep(0.02)


def relayed(run_dir: Path) -> int:
    """Packets that the relays which are now here have seen."""
    return sum(relay["packets_received"] for relay in read_status(run_dir)["relays"])


def kernel(running: Server, figure: str) -> int:
    """A figure of the program, which control copies once a second."""
    return int(read_status(running.run_dir)["control"][f"steered_{figure}"])


def transceiver_1(running: Server) -> int:
    """Its pid once it takes calls, else 0."""
    found = read_status(running.run_dir)["transceivers"]
    pid = next((one["pid"] for one in found if one["slot"] == 1), 0)
    with contextlib.suppress(psutil.NoSuchProcess):
        for connection in psutil.Process(pid).net_connections("tcp") if pid else ():
            if connection.status == psutil.CONN_LISTEN:
                return int(pid)
    return 0


async def owner(http: aiohttp.ClientSession, running: Server, call: Call) -> int:
    """Slot of the transceiver that a call lives on."""
    url = running.http_url + call.resource.replace("/whip/", "/sessions/")
    async with http.get(url) as response:
        return int((await response.json())["transceiver"])


def all_are_back(running: Server, killed: set[int]) -> bool:
    status = read_status(running.run_dir)
    if status["control"] is None:  # it is just starting
        return False
    here = {process["pid"] for process in (status["control"], *status["relays"])}
    reading = [relay["sockets_read"] for relay in status["relays"]]
    return not killed & here and reading == [1, 1] and status["control"]["peers"] == 4


async def talk_while_hit(
    running: Server, calls: Sequence[Call], pids: Sequence[int], number: signal.Signals
) -> None:
    """Everybody talks for 2 s; in the midst of it processes are hit at once, and replaced."""
    before = [len(call.received) for call in calls]
    talk = asyncio.ensure_future(talk_all(calls, 2.0))
    await wait_for(
        lambda: all(len(c.received) > n + 20 for c, n in zip(calls, before, strict=True)),
        "every call to be heard",
    )
    for pid in pids:
        os.kill(pid, number)
    await talk
    await wait_for(lambda: all_are_back(running, set(pids)), "new processes")


def test_relays_see_nothing_of_established_calls(running: Server) -> None:
    async def scenario() -> None:
        # given calls that are set up
        async with callers(running.http_url, CALLS) as (calls, _):
            await talk_all(calls, 0.2)
            before, steered = relayed(running.run_dir), kernel(running, "by_flow")

            await talk_all(calls, 2.0)

            assert await nothing_was_lost(calls)
            steered += CALLS * 2 * PACKETS_A_SECOND
            await wait_for(lambda: kernel(running, "by_flow") >= steered, "the kernel's counters")
            assert relayed(running.run_dir) == before
            assert kernel(running, "by_ufrag") >= CALLS
            assert kernel(running, "dropped_no_relay") == 0

    asyncio.run(scenario())


def test_status_says_that_the_kernel_steers(running: Server) -> None:
    status = read_status(running.run_dir)

    assert (status["plane"], status["portable_because"]) == ("steering", "")
    assert any(line.startswith("plane: steering") for line in render(status).splitlines())


RELAYS, CONTROL = ("relays",), ("control",)
DEATHS = [
    (signal.SIGKILL, RELAYS, 1),
    (signal.SIGSTOP, RELAYS, 1),
    (signal.SIGSTOP, CONTROL, 1),
    (signal.SIGKILL, RELAYS + CONTROL, 3),
    (signal.SIGTERM, RELAYS + CONTROL, 3),
]


@pytest.mark.parametrize(
    ("number", "roles", "times"), DEATHS, ids=[f"{n.name} {' '.join(r)}" for n, r, _ in DEATHS]
)
def test_the_death_of_all_that_routes_costs_no_packet(
    running: Server, number: signal.Signals, roles: tuple[str, ...], times: int
) -> None:
    async def scenario() -> None:
        async with callers(running.http_url, CALLS) as (calls, _):
            for _ in range(times):
                status = read_status(running.run_dir)
                dying = [status["control"]] * ("control" in roles)
                dying += status["relays"] if "relays" in roles else []

                await talk_while_hit(running, calls, [one["pid"] for one in dying], number)

            assert await nothing_was_lost(calls)
            async with callers(running.http_url, 2) as (fresh, _):
                await talk_all([*calls, *fresh], 0.5)
                assert await nothing_was_lost([*calls, *fresh])

    asyncio.run(scenario())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["kill -9", "SIGSTOP"])
def test_a_transceivers_death_ends_exactly_its_calls_and_its_successor_hears_its_own(
    running: Server, number: signal.Signals
) -> None:
    def strays() -> int:
        return int(read_status(running.run_dir)["dropped"]["unknown_flow"])

    async def scenario() -> None:
        # given calls on both transceivers
        async with callers(running.http_url, CALLS) as (calls, http):
            owners = [await owner(http, running, call) for call in calls]
            doomed = [call for call, slot in zip(calls, owners, strict=True) if slot == 1]
            others = [call for call in calls if call not in doomed]
            assert set(owners) == {0, 1}
            pid = transceiver_1(running)

            # when one of them dies or hangs, and its successor comes
            os.kill(pid, number)
            await talk_all(calls, 1.0)
            await wait_for(lambda: transceiver_1(running) not in (0, pid), "the successor")
            heard, counted = [len(call.received) for call in doomed], strays()
            async with callers(running.http_url, 6) as (fresh, _):
                assert 1 in [await owner(http, running, call) for call in fresh]
                await talk_all([*calls, *fresh], 1.0)

                # then all others go on and hear their own, and nothing else
                assert await nothing_was_lost([*others, *fresh])
                assert [len(call.received) for call in doomed] == heard
                # and what is for the dead comes to the relays, which count it
                counted += len(doomed) * PACKETS_A_SECOND
                await wait_for(lambda: strays() >= counted, "the strays")

    asyncio.run(scenario())


def test_a_clean_stop_leaves_nothing_in_the_kernel() -> None:
    # given a steered run that has had its calls
    before = [*BPFFS.rglob("*")]
    with server(extra=ON) as first:
        asyncio.run(calls_work(first.http_url))
        assert first.stop() == 0
    assert [*BPFFS.rglob("*")] == before

    # when another starts on its port without steering
    with server(extra=["--steering", "off", "--port", str(first.port)]) as second:
        asyncio.run(calls_work(second.http_url))

        # then its relays see every packet
        status = read_status(second.run_dir)
        assert (status["plane"], status["port"]) == ("portable", first.port)
        assert relayed(second.run_dir) >= 4 * 0.5 * PACKETS_A_SECOND
        assert status["control"]["steered_by_flow"] == 0


def test_after_kill_9_of_everything_the_next_start_takes_calls_and_hears_no_old_one() -> None:
    async def scenario(first: Server) -> None:
        # given calls whose server is killed whole, control first: it would clean up
        async with callers(first.http_url, 4) as (old, _):
            await talk_all(old, 0.2)
            assert await nothing_was_lost(old)
            status = read_status(first.run_dir)
            everybody = [status["control"], *status["relays"], *status["transceivers"]]
            for pid in [*(one["pid"] for one in everybody), first.pid]:
                os.kill(pid, signal.SIGKILL)

            # when another starts in its place
            again = ["--port", str(first.port), "--run-dir", str(first.run_dir)]
            with server(extra=[*ON, *again]) as second:
                heard = [len(call.received) for call in old]
                await calls_work(second.http_url)
                await talk_all(old, 0.5)

                # then new calls are heard, and of the old ones nothing but the count
                status = read_status(first.run_dir)
                assert "removed what an earlier run had left behind" in second.output
                assert [len(call.received) for call in old] == heard
                assert status["dropped"]["unknown_flow"] > 0
                assert status["control"]["steered_dropped_no_relay"] == 0

    with server(extra=ON) as first:
        asyncio.run(scenario(first))
