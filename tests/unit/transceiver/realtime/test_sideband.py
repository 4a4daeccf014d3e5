"""A WebSocket beside a call: it sees and says what the client's channel does, here and through a sibling."""

import asyncio
import json
from typing import Any

import pytest
from aiohttp import ClientWebSocketResponse, WSServerHandshakeError
from aiohttp.test_utils import TestClient

from tests.unit.transceiver.realtime.test_contract import call, session_of
from tests.unit.transceiver.signalling.test_calls import two
from tests.unit.transceiver.signalling.test_whip import Server, server
from tests.unit.transceiver.test_channels import FakeChannel
from tests.unit.transceiver.test_session import WAIT_S
from voicerelay.transceiver.channels import MAX_TAPS
from voicerelay.transceiver.realtime.oai import CHANNEL
from voicerelay.transceiver.realtime.sideband import MAX_UNSENT_EVENTS, TRY_AGAIN_LATER, Sideband


async def beside(client: "TestClient[Any, Any]", location: str) -> ClientWebSocketResponse:
    url = f"/v1/realtime?call_id={location.rpartition('/')[2]}"
    return await client.ws_connect(url, protocols=["other", "realtime"])


async def updates(socket: ClientWebSocketResponse, here: Server) -> None:
    """An update by the sideband is answered to it and to the client."""
    channel = FakeChannel(CHANNEL)
    assert session_of(here).channel_opened(channel)
    assert socket.protocol == "realtime"
    async with asyncio.timeout(WAIT_S):
        assert (await socket.receive_json())["type"] == "session.created"
        await socket.send_json({"type": "session.update", "session": {"instructions": "be"}})
        updated = await socket.receive_json()
    assert updated["session"]["instructions"] == "be"
    assert json.loads(channel.sent[-1]) == updated


def test_a_sideband_hears_and_says_what_the_client_does() -> None:
    async def run() -> None:
        async with server() as here:
            location = (await call(here)).headers["Location"]
            async with await beside(here.client, location) as socket:
                await updates(socket, here)

                # and it ends with the call
                session_of(here).end("the test is over")
                async with asyncio.timeout(WAIT_S):
                    assert (await socket.receive()).type.name in ("CLOSE", "CLOSED", "CLOSING")

    asyncio.run(run())


def test_a_sideband_reaches_the_call_of_a_sibling() -> None:
    async def run() -> None:
        async with two(most=0) as (ours, theirs):
            location = (await call(ours)).headers["Location"]
            async with await beside(ours.client, location) as socket:
                await updates(socket, theirs)

    asyncio.run(run())


def test_without_a_call_there_is_no_sideband() -> None:
    async def run() -> None:
        async with server() as here:
            for call_id in ("rtc_none", ""):
                with pytest.raises(WSServerHandshakeError) as refused:
                    await beside(here.client, call_id)
                assert refused.value.status == 404

    asyncio.run(run())


def test_sidebands_of_a_call_are_bounded_and_one_that_goes_makes_room() -> None:
    async def run() -> None:
        async with server() as here:
            location = (await call(here)).headers["Location"]
            sockets = [await beside(here.client, location) for _ in range(MAX_TAPS)]

            refused = await beside(here.client, location)
            await refused.receive()
            assert refused.close_code == TRY_AGAIN_LATER

            await sockets[0].close()
            async with asyncio.timeout(WAIT_S):
                while len(session_of(here)._channels._taps) == MAX_TAPS:
                    await asyncio.sleep(0)
            again = await beside(here.client, location)
            assert not again.closed
            for socket in (*sockets, again):
                await socket.close()

    asyncio.run(run())


def test_a_sideband_that_does_not_read_is_ended_and_nobody_waits_for_it() -> None:
    sideband = Sideband()

    for _ in range(MAX_UNSENT_EVENTS):
        sideband.send("x")
    assert (sideband.readyState, sideband.bufferedAmount) == ("open", MAX_UNSENT_EVENTS)
    sideband.send("x")

    assert sideband.readyState == "closed"
