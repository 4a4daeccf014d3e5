"""The admin process beside a running instance: what it tells of calls, and that its death costs nothing."""

import asyncio
import json
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.callers import callers, still_there, talk_all
from tests.support.server import Server, free_port, server
from voicerelay.cli.figures import TransceiverFigures

pytestmark = pytest.mark.system

PATIENCE_S = 20.0
CALLS = 3


class Instance:
    """A server, its admin address and where its call records go."""

    def __init__(self, running: Server, admin: str, records: Path) -> None:
        self.running = running
        self.admin = admin
        self.records = records


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    admin = f"127.0.0.1:{free_port(socket.SOCK_STREAM)}"
    with tempfile.TemporaryDirectory(prefix="vr-") as folder:
        records = Path(folder) / "calls.jsonl"
        extra = ["--admin", admin, "--call-records", str(records)]
        with server(app="tests.support.pcm_echo:app", extra=extra, ready_timeout_s=60) as running:
            yield Instance(running, f"http://{admin}", records)


@asynccontextmanager
async def client(instance: Instance) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(instance.admin) as http:
        yield http


async def metrics(http: aiohttp.ClientSession) -> dict[str, float]:
    """Name -> sum over all labels."""
    async with http.get("/metrics") as answer:
        assert answer.status == 200
        text = await answer.text()
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


async def json_of(http: aiohttp.ClientSession, path: str) -> tuple[int, Any]:
    async with http.get(path) as answer:
        return answer.status, await answer.json()


async def until(condition: Any) -> Any:
    """The first truthy result of a coroutine function; connection errors are none."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                if found := await condition():
                    return found
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)


def admin_pid(running: Server) -> int:
    """Of the supervisor's child."""
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    for pid in children:
        if b"voicerelay.cli.admin" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return int(pid)
    raise AssertionError("no admin process")


def test_calls_are_seen_ended_and_recorded_and_the_death_of_who_looks_costs_nothing(
    instance: Instance,
) -> None:
    async def run() -> None:
        async with (
            client(instance) as http,
            callers(instance.running.http_url, CALLS) as (calls, _),
        ):
            # given calls that talk
            await talk_all(calls, 1.0)
            before = await until(lambda: _with_calls(http))

            # then the page is told of them, and a stranger on the clients' port is not
            snapshot = (await json_of(http, "/api/snapshot"))[1]
            assert len(snapshot["calls"]) == CALLS
            assert await json_of(http, "/readyz") == (200, {"ready": True, "why": []})
            async with aiohttp.ClientSession(instance.running.http_url) as stranger:
                for path in ("/internal/sessions", "/metrics", "/api/snapshot"):
                    async with stranger.get(path) as answer:
                        assert answer.status == 404

            # when the admin process is killed, and replaced
            os.kill(admin_pid(instance.running), signal.SIGKILL)
            assert all(await asyncio.gather(*(still_there(call) for call in calls)))
            await until(lambda: json_of(http, "/livez"))
            after = await metrics(http)
            assert after["voicerelay_rtp_packets_total"] >= before["voicerelay_rtp_packets_total"]

            # when a call is ended by an operator
            figures = TransceiverFigures(instance.running.run_dir)
            victim = snapshot["calls"][0]["short_id"]
            assert await figures.end(victim, "a test") is not None

            # then that call alone ends, and there is a record of it
            record = await until(lambda: _record(instance.records, victim))
            assert record["end_reason"] == "ended by the operator: a test"
            assert record["packets_in"] > 0
            assert set(record["setup_ms"]) == {"answer", "ice", "dtls", "media", "total"}
            await until(lambda: _sessions(http, CALLS - 1))

    asyncio.run(run())


def test_counters_go_on_when_a_transceiver_is_replaced(instance: Instance) -> None:
    async def run() -> None:
        async with client(instance) as http:
            async with callers(instance.running.http_url, CALLS) as (calls, _):
                await talk_all(calls, 0.5)
                before = await metrics(http)
                killed = await _transceivers(http)
                for pid in killed:
                    os.kill(pid, signal.SIGKILL)

            async def replaced() -> bool:
                ready = (await json_of(http, "/readyz"))[0] == 200
                return ready and not killed & await _transceivers(http)

            await until(replaced)
            after = await metrics(http)

            for name, value in before.items():
                if name.endswith(("_total", "_bucket", "_count")):
                    assert after[name] >= value, name
            assert before["voicerelay_transceiver_packets_total"] > 0

    asyncio.run(run())


async def _with_calls(http: aiohttp.ClientSession) -> dict[str, float]:
    found = await metrics(http)
    seen = found["voicerelay_session_setup_seconds_count"] >= 5 * CALLS
    return found if seen and found["voicerelay_frame_lateness_seconds_count"] else {}


async def _sessions(http: aiohttp.ClientSession, count: int) -> bool:
    return (await metrics(http))["voicerelay_sessions"] == count


async def _transceivers(http: aiohttp.ClientSession) -> set[int]:
    """Their pids."""
    return {one["pid"] for one in (await json_of(http, "/api/snapshot"))[1]["transceivers"]}


async def _record(path: Path, call: str) -> dict[str, Any] | None:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return next((record for record in records if record["call"] == call), None)
