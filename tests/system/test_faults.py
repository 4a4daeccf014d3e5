"""Processes are killed and stopped under live calls: what must go on goes on, what must end ends."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import pytest

from tests.support.callers import callers, still_there, talk_all
from tests.support.client import Call, CallRefused
from tests.support.server import Server, server
from voicerelay.cli.status import read_status

pytestmark = pytest.mark.system

CALLS = 20
PATIENCE_S = 15.0


@pytest.fixture(scope="module")
def running(plane_options: list[str]) -> Iterator[Server]:
    with server(relays=2, transceivers=2, extra=plane_options) as started:
        yield started


async def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Poll a cheap condition; fail with `what` when it does not come true."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"waited {PATIENCE_S} s for {what}")


def pid_of(running: Server, role: str, index: int) -> int:
    key = "index" if role == "relays" else "slot"
    entries = read_status(running.run_dir)[role]
    return int(next((entry["pid"] for entry in entries if entry[key] == index), 0))


def replaced(running: Server, role: str, index: int, old: int) -> Callable[[], bool]:
    return lambda: pid_of(running, role, index) not in (0, old)


async def hit_and_go_on(running: Server, pid: int, number: signal.Signals) -> list[Call]:
    """Calls talk; in the middle a process is hit; returns the calls that do not go on."""
    async with callers(running.http_url, CALLS) as (calls, _):
        talk = asyncio.gather(*(call.talk(2.0) for call in calls))
        await asyncio.sleep(0.5)
        os.kill(pid, number)
        await talk
        lively = await asyncio.gather(*(still_there(call) for call in calls))
        return [call for call, alive in zip(calls, lively, strict=True) if not alive]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["kill -9", "SIGSTOP"])
@pytest.mark.parametrize("relay", [0, 1])
def test_no_call_is_lost_when_a_relay_goes(
    running: Server, relay: int, number: signal.Signals
) -> None:
    pid = pid_of(running, "relays", relay)

    async def scenario() -> None:
        lost = await hit_and_go_on(running, pid, number)

        assert lost == []
        await wait_for(replaced(running, "relays", relay, pid), "a new relay")
        # Its socket is its own again.
        await wait_for(
            lambda: [r["sockets_read"] for r in read_status(running.run_dir)["relays"]] == [1, 1],
            "every relay to read one socket",
        )

    asyncio.run(scenario())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["kill -9", "SIGSTOP"])
def test_no_call_is_lost_when_control_goes(running: Server, number: signal.Signals) -> None:
    pid = read_status(running.run_dir)["control"]["pid"]

    async def scenario() -> None:
        lost = await hit_and_go_on(running, pid, number)

        assert lost == []
        await wait_for(
            lambda: read_status(running.run_dir)["control"]["pid"] not in (0, pid), "a new control"
        )
        await wait_for(
            lambda: read_status(running.run_dir)["control"]["peers"] == 4, "everybody to be back"
        )
        async with callers(running.http_url, 1) as (calls, _):
            assert await still_there(calls[0])

    asyncio.run(scenario())


def test_tables_survive_controls_death(running: Server) -> None:
    async def scenario() -> None:
        async with callers(running.http_url, 4) as (calls, _):
            before = read_status(running.run_dir)
            os.kill(before["control"]["pid"], signal.SIGKILL)

            def is_back() -> bool:
                control = read_status(running.run_dir)["control"]
                return bool(control["peers"] == 4 and control["pid"] != before["control"]["pid"])

            await wait_for(is_back, "control to be back with its peers")

            after = read_status(running.run_dir)
            assert (after["routes"], after["flows"]) == (before["routes"], before["flows"])
            assert all(await asyncio.gather(*(still_there(call) for call in calls)))

    asyncio.run(scenario())


def test_an_offer_fails_fast_and_clearly_without_control(running: Server) -> None:
    async def scenario() -> None:
        pid = read_status(running.run_dir)["control"]["pid"]
        async with aiohttp.ClientSession() as http:
            call = Call(running.http_url)
            os.kill(pid, signal.SIGSTOP)
            try:
                with pytest.raises(CallRefused) as refused:
                    await call.connect(http)
            finally:
                await call.close()
                await wait_for(
                    lambda: read_status(running.run_dir)["control"]["pid"] not in (0, pid),
                    "a new control",
                )
        assert refused.value.status == 503
        assert refused.value.body["error"]["code"] == "no_route"
        await wait_for(
            lambda: read_status(running.run_dir)["control"]["peers"] == 4, "everybody to be back"
        )

    asyncio.run(scenario())


def test_a_transceivers_death_ends_exactly_its_calls(running: Server) -> None:
    async def scenario() -> None:
        async with callers(running.http_url, CALLS) as (calls, http):
            owners = []
            for call in calls:
                url = running.http_url + call.resource.replace("/whip/", "/sessions/")
                async with http.get(url) as response:
                    owners.append((await response.json())["transceiver"])
            assert 0 in owners
            assert 1 in owners
            pid = pid_of(running, "transceivers", 1)
            os.kill(pid, signal.SIGKILL)
            await talk_all(calls, 0.5)

            lively = await asyncio.gather(
                *(still_there(c) for c, o in zip(calls, owners, strict=True) if o == 0)
            )
            assert all(lively)
            doomed = [c for c, o in zip(calls, owners, strict=True) if o == 1]
            last = [len(call.received) for call in doomed]
            await wait_for(replaced(running, "transceivers", 1, pid), "a new transceiver")
            # Nothing of the old calls reaches the successor: their routes and flows are gone.
            status = read_status(running.run_dir)
            assert status["routes"] == status["flows"] == owners.count(0)
            await talk_all(doomed, 0.2)
            assert [len(call.received) for call in doomed] == last
            async with callers(running.http_url, 2) as (fresh, _):
                assert all(await asyncio.gather(*(still_there(call) for call in fresh)))

    asyncio.run(scenario())
