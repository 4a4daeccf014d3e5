"""FastRTC's contract, for plain agents, as its inline clients use it."""

import asyncio
import json
from typing import Any

import pytest

from tests.unit.transceiver.signalling.test_calls import two
from tests.unit.transceiver.signalling.test_offer import CHROMIUM
from tests.unit.transceiver.signalling.test_pipecat import ask
from tests.unit.transceiver.signalling.test_whip import Server, server
from voicerelay.transceiver.session import LiveSession
from voicerelay.transceiver.signalling.fastrtc import CHANNEL, Farewell
from voicerelay.transceiver.signalling.owners import MAX_NAME_CHARS

OFFER = {"sdp": CHROMIUM, "type": "offer", "webrtc_id": "abc123"}
CANDIDATE = {
    "candidate": {"candidate": "candidate:1 1 udp 1 x.local 9 typ host", "sdpMid": "0"},
    "type": "ice-candidate",
    "webrtc_id": "abc123",
}


async def post(here: Server, body: object) -> tuple[int, Any]:
    return await ask(here, body, "/webrtc/offer")


def failure(error: str) -> tuple[int, Any]:
    return 200, {"status": "failed", "meta": {"error": error}}


def test_an_offer_is_answered_and_candidates_are_accepted_wherever_they_land() -> None:
    async def run() -> None:
        async with two() as (ours, theirs):
            status, told = await post(theirs, OFFER | {"voice": "alto"})

            assert status == 200
            assert set(told) == {"sdp", "type"}
            assert told["type"] == "answer"
            (session,) = theirs.registry._by_id.values()
            assert isinstance(session, LiveSession)
            assert session.request.body == {"voice": "alto"}
            for here in (ours, theirs):
                assert await post(here, CANDIDATE) == (200, {"status": "success"})

    asyncio.run(run())


def test_a_name_is_one_calls_until_that_has_ended() -> None:
    async def run() -> None:
        async with two() as (ours, theirs):
            await post(theirs, OFFER)
            for here in (ours, theirs):
                assert await post(here, OFFER) == failure("connection_already_exists")

            await theirs.registry.close_all("for a test")
            await asyncio.sleep(0.01)

            assert await post(ours, CANDIDATE) == failure("unknown_connection")
            assert (await post(ours, OFFER))[1]["type"] == "answer"

    asyncio.run(run())


def test_a_full_server_says_so_in_the_contracts_words() -> None:
    async def run() -> None:
        async with server(most=0) as here:
            status, told = await post(here, OFFER)
            assert (status, told["status"]) == (200, "failed")
            assert told["meta"]["error"] == "concurrency_limit_reached"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, "malformed_webrtc_id"),
        (OFFER | {"webrtc_id": ""}, "malformed_webrtc_id"),
        (OFFER | {"webrtc_id": 7}, "malformed_webrtc_id"),
        (OFFER | {"webrtc_id": "x" * (MAX_NAME_CHARS + 1)}, "malformed_webrtc_id"),
        (OFFER | {"type": "answer"}, "malformed_offer"),
        (OFFER | {"sdp": None}, "malformed_offer"),
        (CANDIDATE, "unknown_connection"),
    ],
)
def test_a_bad_request_fails_with_200(body: object, error: str) -> None:
    async def run() -> None:
        async with server() as here:
            assert await post(here, body) == failure(error)
            assert here.registry.sessions == 0

    asyncio.run(run())


def test_an_offer_that_makes_no_call_fails_with_our_words() -> None:
    async def run() -> None:
        async with server() as here:
            status, told = await post(here, OFFER | {"sdp": "v=0"})
            assert (status, told["status"], told["meta"]["error"]) == (200, "failed", "no_audio")
            assert not here.here.directory.routes

    asyncio.run(run())


def test_the_client_hears_that_the_stream_ends() -> None:
    sent: list[tuple[Any, str]] = []

    class Session:
        def send_message(self, data: str, channel: str) -> None:
            sent.append((json.loads(data), channel))

    session: Any = Session()
    farewell = Farewell(session)

    assert farewell.received(CHANNEL, "handshake")
    assert not farewell.received(CHANNEL, "hello")
    farewell.leaving()
    assert sent == [({"type": "end_stream", "data": ""}, CHANNEL)]
