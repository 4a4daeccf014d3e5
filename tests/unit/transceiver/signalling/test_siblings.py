"""Handing a request to another transceiver of the host, or finding that it is gone."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from voicerelay.shm.counters import COUNTERS_BYTES, HEARTBEAT_NS, Counters, TransceiverCounter
from voicerelay.shm.rundir import http_socket
from voicerelay.transceiver.signalling import siblings as module
from voicerelay.transceiver.signalling.siblings import (
    LIVELY_S,
    PROXY_TIMEOUT_S,
    SiblingGone,
    Siblings,
)

OURS, THEIRS = 1, 2
FAR = 1_000_000


def counters_with(*loads: tuple[int, int, int], age_s: float = 0.0) -> Counters:
    """Counters of transceivers (slot, sessions, most sessions) whose heart beat `age_s` ago."""
    counters = Counters(memoryview(bytearray(COUNTERS_BYTES)))
    for slot, sessions, most in loads:
        block = counters.transceiver(slot)
        block.claim()
        block.set(TransceiverCounter.SESSIONS, sessions)
        block.set(TransceiverCounter.MAX_SESSIONS, most)
        block.words[HEARTBEAT_NS] = time.monotonic_ns() - int(age_s * 1e9)
    return counters


def found(counters: Counters, below: int = FAR) -> list[int]:
    return list(Siblings(Path("/nowhere"), OURS).with_room(counters, below))


def test_siblings_with_room_come_emptiest_first_and_never_ourselves() -> None:
    counters = counters_with((OURS, 0, 10), (2, 5, 10), (3, 1, 10), (4, 10, 10), (5, 11, 10))

    assert found(counters) == [3, 2]


def test_only_siblings_below_the_given_load_are_named() -> None:
    counters = counters_with((2, 5, 10), (3, 4, 10))

    assert found(counters, below=5) == [3]
    assert found(counters, below=0) == []


def test_a_sibling_whose_heart_stands_still_gets_no_call() -> None:
    assert found(counters_with((2, 0, 10), age_s=LIVELY_S * 2)) == []


def test_a_sibling_that_drains_gets_no_call() -> None:
    counters = counters_with((2, 0, 10), (3, 1, 10))
    counters.transceiver(2).set(TransceiverCounter.DRAINING, 1)

    assert found(counters) == [3]


def test_a_slot_that_nobody_holds_gets_no_call() -> None:
    counters = counters_with((2, 0, 10))
    counters.transceiver(2).clear()

    assert found(counters) == []


# ---- passing on ----------------------------------------------------------------------------------


class Sibling:
    """A transceiver at slot THEIRS that notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, bytes, dict[str, str]]] = []
        self.hang = asyncio.Event()

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.asked.append((request.method, request.path_qs, body, dict(request.headers)))
        if request.path == "/hang":
            await self.hang.wait()
        headers = {"ETag": '"e"', "Location": "/whip/x", "X-Secret": "s", "Retry-After": "2"}
        return web.Response(
            status=201, body=b"answer", content_type="application/sdp", headers=headers
        )


@contextlib.asynccontextmanager
async def front(
    run_dir: Path,
) -> AsyncIterator[tuple[TestClient[web.Request, web.Application], Siblings]]:
    """Our own HTTP, which passes everything on."""
    siblings = Siblings(run_dir, OURS)

    async def handle(request: web.Request) -> web.Response:
        try:
            return await siblings.pass_on(THEIRS, request)
        except SiblingGone:
            return web.Response(status=404)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handle)
    async with TestClient(TestServer(app)) as client:
        try:
            yield client, siblings
        finally:
            await siblings.close()


@contextlib.asynccontextmanager
async def sibling(run_dir: Path) -> AsyncIterator[Sibling]:
    made = Sibling()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", made.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(http_socket(run_dir, THEIRS))).start()
    try:
        yield made
    finally:
        made.hang.set()
        await runner.cleanup()


def test_a_request_and_its_answer_pass_through_whole() -> None:
    async def run(run_dir: Path) -> None:
        async with sibling(run_dir) as other, front(run_dir) as (client, _):
            # given a request with what signalling needs, what an agent may, and a hop's own
            headers = {
                "Content-Type": "application/trickle-ice-sdpfrag",
                "If-Match": '"e"',
                "Authorization": "Bearer t",
                "Cookie": "who=1",
                "TE": "trailers",
            }
            body = bytes(range(256))

            # when it is passed on
            response = await client.patch("/whip/a%2Fb?x=1&y=%20", data=body, headers=headers)

            # then method, path, body and the client's headers arrive, and the answer comes back
            method, path, data, seen = other.asked[0]
            assert (method, path.replace("+", "%20"), data) == (
                "PATCH",
                "/whip/a%2Fb?x=1&y=%20",
                body,
            )
            del headers["TE"]
            assert {name: seen[name] for name in headers} == headers
            assert "TE" not in seen
            assert (response.status, await response.read()) == (201, b"answer")
            assert response.headers["ETag"] == '"e"'
            assert response.headers["Location"] == "/whip/x"
            assert response.headers["Retry-After"] == "2"
            assert response.content_type == "application/sdp"
            assert "X-Secret" not in response.headers

    with TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))


@pytest.mark.parametrize("leftover", [False, True])
def test_a_sibling_that_is_not_there_is_gone(leftover: bool) -> None:
    async def run(run_dir: Path) -> None:
        if leftover:  # of a transceiver that was killed
            async with sibling(run_dir):
                http_socket(run_dir, THEIRS).rename(run_dir / "kept")
            (run_dir / "kept").rename(http_socket(run_dir, THEIRS))
        async with front(run_dir) as (client, _):
            assert (await client.delete("/whip/x")).status == 404

    with TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))


def test_a_sibling_that_hangs_counts_as_gone_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PROXY_TIMEOUT_S <= 5.0
    monkeypatch.setattr(module, "PROXY_TIMEOUT_S", 0.1)

    async def run(run_dir: Path) -> None:
        async with sibling(run_dir) as other, front(run_dir) as (client, _):
            assert (await client.get("/hang")).status == 404
            assert len(other.asked) == 1

    with TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))


def test_a_sibling_that_was_gone_is_found_again() -> None:
    async def run(run_dir: Path) -> None:
        async with front(run_dir) as (client, siblings):
            assert (await client.get("/x")).status == 404
            async with sibling(run_dir):
                assert (await client.get("/x")).status == 201
            assert (await client.get("/x")).status == 404
            assert len(siblings._clients) == 1

    with TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))
