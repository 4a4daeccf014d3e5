"""What aiortc takes for an aioice.Connection: bounded, and nobody waits for ever."""

import asyncio

import aioice
import pytest

from tests.unit.transceiver.test_seam import FakeLink
from voicerelay.transceiver.lite import MAX_PENDING_DATAGRAMS, LiteConnection


def test_dtls_datagrams_that_wait_are_bounded() -> None:
    async def run() -> None:
        connection = LiteConnection(FakeLink())

        taken = [connection.deliver(bytes((n,))) for n in range(MAX_PENDING_DATAGRAMS + 2)]

        assert taken == [True] * MAX_PENDING_DATAGRAMS + [False] * 2
        assert await connection.recv() == b"\x00"
        assert connection.deliver(b"again")

    asyncio.run(run())


def test_whoever_waits_for_a_connection_that_ends_is_woken() -> None:
    async def run() -> None:
        connection = LiteConnection(FakeLink())
        waiting = [
            asyncio.ensure_future(wait())
            for wait in (connection.connect, connection.recv, connection.get_event)
        ]
        await asyncio.sleep(0)

        await connection.close()

        async with asyncio.timeout(10):
            results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [
            ConnectionError,
            ConnectionError,
            aioice.ConnectionClosed,
        ]
        with pytest.raises(ConnectionError):
            await connection.send(b"late")

    asyncio.run(run())
