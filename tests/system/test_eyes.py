"""`sessions`, `top` and `doctor` beside a real instance with one call."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
from click.testing import CliRunner, Result

from tests.support.lean import Caller, LeanCall
from tests.support.server import Server, server
from voicerelay.cli.figures import TransceiverFigures
from voicerelay.cli.main import main

pytestmark = pytest.mark.system

PATIENCE_S = 30.0


async def voicerelay(running: Server, *arguments: str) -> Result:
    """What a command says of the instance."""
    command = [*arguments, "--run-dir", str(running.run_dir)]
    return await asyncio.to_thread(CliRunner().invoke, main, command)


@contextlib.asynccontextmanager
async def one_call(running: Server) -> AsyncIterator[str]:
    """Its id."""
    async with aiohttp.ClientSession() as http:
        call = LeanCall(Caller(running.http_url))
        await call.connect(http)
        try:
            yield call.resource.rpartition("/")[2]
        finally:
            call.close()


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with server(relays=1, transceivers=1) as started:
        yield started


def test_a_call_is_seen_by_every_eye_and_ended(running: Server) -> None:
    async def scenario() -> None:
        async with one_call(running) as session_id:
            short = session_id[-8:]

            listed = await voicerelay(running, "sessions", "ls", "--json")
            shown = await voicerelay(running, "sessions", "show", short, "--json")
            top = await voicerelay(running, "top", "--json", "--interval", "0.2")
            printed = await voicerelay(running, "top", "--once", "--interval", "0.2")

            assert [one["id"] for one in json.loads(listed.stdout)] == [session_id]
            assert json.loads(shown.stdout)["setup_ms"]["total"] > 0
            found = json.loads(top.stdout)
            assert [one["id"] for one in found["sessions"]] == [session_id]
            assert found["totals"]["sessions"] == 1
            assert [one["index"] for one in found["relays"]] == [0]
            assert all(one["cpu_percent"] is not None for one in found["transceivers"])
            assert session_id[-6:] in printed.stdout

            killed = await voicerelay(running, "sessions", "kill", short, "--reason", "a test")
            missing = await voicerelay(running, "sessions", "kill", "no-such-call")

            assert (killed.exit_code, killed.stdout.split()[0]) == (0, session_id)
            assert (missing.exit_code, missing.stdout) == (1, "")
            client = TransceiverFigures(running.run_dir)
            async with asyncio.timeout(PATIENCE_S):
                while await client.sessions():
                    await asyncio.sleep(0.01)

    asyncio.run(scenario())


def test_doctor_knows_the_instance_for_its_own(running: Server) -> None:
    http = running.http_url.removeprefix("http://")
    ours = ("--port", str(running.port), "--listen", "127.0.0.1", "--http", http)

    result = asyncio.run(voicerelay(running, "doctor", "--json", *ours))

    told = json.loads(result.stdout)
    states = {one["name"]: one["state"] for one in told["findings"]}
    assert result.exit_code == (1 if told["counts"]["fail"] else 0)
    assert (states["UDP port"], states["HTTP port"]) == ("ok", "ok")
    assert all(one["mend"] for one in told["findings"] if one["state"] != "ok")
