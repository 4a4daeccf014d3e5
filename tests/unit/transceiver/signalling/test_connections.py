"""Connections of clients: late ones are closed, too many make room, and those that have asked stay."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from functools import partial

import pytest
from aiohttp import web

from tests.unit.transceiver.test_session import WAIT_S, until
from voicerelay.shm.counters import BLOCK_BYTES, Block, TransceiverCounter
from voicerelay.transceiver.signalling import connections as module
from voicerelay.transceiver.signalling.connections import MAX_CONNECTIONS, Connections
from voicerelay.transceiver.signalling.problem import problems

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Here:
    """A server whose answers wait for `go_on`."""

    def __init__(self) -> None:
        self.block = Block(memoryview(bytearray(BLOCK_BYTES)).cast("Q"))
        self.connections = Connections(self.block)
        self.go_on = asyncio.Event()
        self.asked = 0
        self.port = 0
        self.clients: list[Pair] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        await request.read()
        await self.go_on.wait()
        return web.Response(text="hello")

    async def client(self, said: bytes = b"") -> Pair:
        before = len(self.connections)
        pair = await asyncio.open_connection("127.0.0.1", self.port)
        self.clients.append(pair)
        pair[1].write(said)
        await until(lambda: len(self.connections) > before or self.count() > 0)
        return pair

    def count(self, what: str = "HTTP_CONNECTIONS_REFUSED") -> int:
        return self.block.get(TransceiverCounter[what])


@contextlib.asynccontextmanager
async def here() -> AsyncIterator[Here]:
    made = Here()
    app = web.Application(middlewares=[made.connections.middleware, problems])
    app.router.add_get("/", made.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1, logger=made.connections.log)
    await runner.setup()
    assert runner.server is not None
    sock = socket.create_server(("127.0.0.1", 0))
    made.port = sock.getsockname()[1]
    protocol = partial(made.connections.protocol, runner.server)
    listening = await asyncio.get_running_loop().create_server(protocol, sock=sock)
    try:
        yield made
    finally:
        made.go_on.set()
        listening.close()
        for _, writer in made.clients:
            writer.close()
        await until(lambda: not len(made.connections))
        await runner.cleanup()


async def is_closed(client: Pair) -> bool:
    async with asyncio.timeout(WAIT_S):
        with contextlib.suppress(ConnectionError):
            return await client[0].read() == b""
    return True


@pytest.mark.parametrize("said", [b"", b"GET /", REQUEST[:-2] + b"X: y\r\n"], ids=[0, 1, 2])
def test_who_brings_no_whole_request_in_time_is_closed(
    monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(module, "FIRST_REQUEST_S", 0.05)

    async def run() -> None:
        async with here() as one:
            client = await one.client(said)

            assert await is_closed(client)
            assert one.count("HTTP_CLIENTS_TOO_SLOW") == 1
            assert one.asked == 0

    asyncio.run(run())


def test_who_has_asked_stays_however_long_the_answer_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "FIRST_REQUEST_S", 1.0)

    async def run() -> None:
        async with here() as one:
            client = await one.client(REQUEST)
            await until(lambda: one.asked == 1)

            late = await one.client()  # when this one's time is over, the other's would be too
            assert await is_closed(late)
            one.go_on.set()

            async with asyncio.timeout(WAIT_S):
                assert (await client[0].readline()).startswith(b"HTTP/1.1 200")
            assert one.count("HTTP_CLIENTS_TOO_SLOW") == 1

    asyncio.run(run())


def test_when_there_are_too_many_the_oldest_that_has_asked_nothing_makes_room() -> None:
    async def run() -> None:
        async with here() as one:
            # given as many as may be
            one.connections.most = 3
            asking = await one.client(REQUEST)
            await until(lambda: one.asked == 1)
            silent = [await one.client() for _ in range(2)]

            # when one more comes
            newest = await one.client(REQUEST)
            await until(lambda: one.asked == 2)

            # then the oldest silent one goes
            assert await is_closed(silent[0])
            assert one.count() == 1
            one.go_on.set()
            for client in (asking, newest):
                async with asyncio.timeout(WAIT_S):
                    assert (await client[0].readline()).startswith(b"HTTP/1.1 200")

    asyncio.run(run())


def test_when_all_have_asked_the_newest_is_refused() -> None:
    async def run() -> None:
        async with here() as one:
            one.connections.most = 1
            await one.client(REQUEST)
            await until(lambda: one.asked == 1)

            assert await is_closed(await one.client(REQUEST))

            assert (one.count(), one.asked, len(one.connections)) == (1, 1, 1)

    asyncio.run(run())


def test_what_is_no_http_is_answered_counted_and_logged_nowhere(
    caplog: pytest.LogCaptureFixture,
) -> None:
    secret = b"Authorization: Bearer web-key-0123456789\x00"

    async def run() -> None:
        async with here() as one:
            one.go_on.set()
            for number, said in enumerate(
                (
                    b"\x16\x03\x01\r\n\r\n",
                    REQUEST[:-2] + secret + b"\r\n\r\n",
                    b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 3000,
                    b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\n\r\n",
                    REQUEST[:-2] + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
                ),
                1,
            ):
                client = await one.client(said)
                async with asyncio.timeout(WAIT_S):
                    assert b" 400 " in await client[0].readline()
                await client[0].read()  # until it is closed
                assert one.count("HTTP_REQUESTS_MALFORMED") >= number

    asyncio.run(run())
    assert not caplog.records


def test_our_own_mistakes_in_serving_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    ours = Connections(Block(memoryview(bytearray(BLOCK_BYTES)).cast("Q"))).log

    try:
        raise ValueError("ours")
    except ValueError:
        ours.exception("Unhandled exception")

    assert "ValueError: ours" in caplog.text


def test_calls_keep_descriptors_however_few_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft, most in ((256, 128), (1 << 20, MAX_CONNECTIONS)):
        monkeypatch.setattr("resource.getrlimit", lambda _, soft=soft: (soft, soft))
        block = Block(memoryview(bytearray(BLOCK_BYTES)).cast("Q"))

        assert Connections(block).most == most
