"""Rolls under live calls: reload, upgrade, a drain with a deadline; what fails leaves all as it was.

One server a plane for all: each test begins with what the one before has left running.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.support.callers import callers, heard_all, still_there, talk_all
from tests.support.client import Call
from tests.support.rolling import (
    BROKEN,
    FIRST,
    MARK,
    SECOND,
    AgentCode,
    command,
    other_installation,
)
from tests.support.server import Server, server
from voicerelay.cli.commands import Command
from voicerelay.cli.errors import UserError
from voicerelay.cli.rolling import ask
from voicerelay.cli.status import read_status
from voicerelay.shm.region import ABI

pytestmark = [pytest.mark.system, pytest.mark.alone]

CALLS = 20
PATIENCE_S = 15.0
SECONDS = 60.0  # of talk at most; it ends with the scenario


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> AgentCode:
    return AgentCode(tmp_path_factory.mktemp("agent"))


@pytest.fixture(scope="module")
def running(plane_options: list[str], code: AgentCode) -> Iterator[Server]:
    code.is_now(FIRST)
    with server(
        relays=2, transceivers=2, app=code.app, env=code.env, extra=plane_options
    ) as started:
        yield started


def pids(running: Server) -> dict[str, int]:
    """Of every process, by its name."""
    status = read_status(running.run_dir)
    found = {f"transceiver {one['slot']}": one["pid"] for one in status["transceivers"]}
    found |= {f"relay {one['index']}": one["pid"] for one in status["relays"]}
    return found | {"supervisor": status["pid"], "control": status["control"]["pid"]}


def draining(running: Server) -> set[int]:
    return {one["slot"] for one in read_status(running.run_dir)["transceivers"] if one["draining"]}


async def settled(running: Server) -> dict[str, int]:
    """Every process, once no transceiver retires."""
    async with asyncio.timeout(PATIENCE_S):
        while draining(running):
            await asyncio.sleep(0.05)
    return pids(running)


async def owners(running: Server, calls: list[Call], http: aiohttp.ClientSession) -> list[int]:
    """Which transceiver each call lives in."""
    found = []
    for call in calls:
        url = running.http_url + call.resource.replace("/whip/", "/sessions/")
        async with http.get(url) as response:
            found.append((await response.json())["transceiver"])
    return found


async def speaks(running: Server) -> bytes:
    """The first byte of what the agent of a new call says."""
    async with callers(running.http_url, 1) as (calls, _):
        assert await still_there(calls[0])
        return calls[0].received[-1].payload[:1]


async def rolled(running: Server, *arguments: str) -> str:
    """Run a command that must succeed, without waiting for the last call to end."""
    code, output = await command(running.run_dir, *arguments, "--no-wait")
    assert code == 0, output
    return output


def test_a_reload_drops_no_call(running: Server, code: AgentCode) -> None:
    async def scenario() -> None:
        async with callers(running.http_url, CALLS) as (calls, http):
            talk = asyncio.ensure_future(talk_all(calls, SECONDS))
            before = pids(running)
            code.is_now(SECOND)

            await rolled(running, "reload")

            after = pids(running)
            replaced = {name for name in before if after.get(name) not in (None, before[name])}
            assert replaced == {"relay 0", "relay 1"}
            assert draining(running) == {0, 1}
            assert await speaks(running) == MARK
            assert set(await owners(running, calls, http)) == {0, 1}
            talk.cancel()
            assert all(await asyncio.gather(*(heard_all(call, 0) for call in calls)))

    asyncio.run(scenario())


@pytest.mark.parametrize("plane", ["portable"], indirect=True)
def test_what_cannot_be_rolled_changes_nothing(
    running: Server, code: AgentCode, tmp_path: Path
) -> None:
    async def scenario() -> None:
        before, heard = await settled(running), await speaks(running)
        other = other_installation(
            tmp_path, ("shm/region.py", f"ABI = {ABI}\n", f"ABI = {ABI + 1}\n")
        )
        code.is_now(BROKEN)

        failed, why = await command(running.run_dir, "reload")
        code.is_now(FIRST)
        with pytest.raises(UserError, match=f"has ABI {ABI + 1}, the running .* has {ABI}"):
            await asyncio.to_thread(ask, running.run_dir, Command("upgrade", python=other))

        assert failed == 2
        assert "broken on purpose" in why
        assert pids(running) == before
        assert await speaks(running) == heard

    asyncio.run(scenario())


@pytest.mark.parametrize("plane", ["portable"], indirect=True)
def test_an_upgrade_drops_no_call_and_a_deadline_ends_exactly_the_stragglers(
    running: Server, code: AgentCode
) -> None:
    async def scenario() -> None:
        async with callers(running.http_url, CALLS) as (calls, http):
            where = await owners(running, calls, http)
            first, second = sorted(set(where))
            talk = asyncio.ensure_future(talk_all(calls, SECONDS))
            before = await settled(running)
            code.is_now(SECOND)

            await rolled(running, "upgrade")

            after = pids(running)
            kept = {name for name in after if before.get(name) == after[name]}
            assert kept == {"supervisor", f"transceiver {first}", f"transceiver {second}"}
            assert await speaks(running) == MARK
            talk.cancel()
            assert all(await asyncio.gather(*(heard_all(call, 0) for call in calls)))

            output = (await command(running.run_dir, "drain", str(first), "--deadline", "0"))[1]

            of_first = [call for call, owner in zip(calls, where, strict=True) if owner == first]
            assert f"{len(of_first)} calls were ended by the deadline" in output
            await asyncio.gather(*(call.closed.wait() for call in of_first))
            others = [call for call in calls if call not in of_first]
            assert all(await asyncio.gather(*(still_there(call) for call in others)))

    asyncio.run(scenario())
