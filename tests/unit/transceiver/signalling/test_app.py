"""What holds for every contract: who may call, how often, how much, from which pages; what a bad body costs."""

import asyncio
import gzip
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from aiohttp import ClientResponse

from tests.unit.transceiver.signalling.test_offer import CHROMIUM
from tests.unit.transceiver.signalling.test_whip import Server, server
from tests.unit.transceiver.test_session import WAIT_S
from voicerelay.transceiver.session import LiveSession
from voicerelay.transceiver.settings import AccessSettings
from voicerelay.transceiver.signalling import access, calls
from voicerelay.transceiver.signalling.buckets import Rate
from voicerelay.transceiver.signalling.calls import JSON, MAX_BODY_BYTES
from voicerelay.transceiver.signalling.offer import MAX_OFFER_BYTES
from voicerelay.transceiver.signalling.whip import SDP

KEY, OTHER = "web-key-0123456789", "other-key-0123456789"
PAGE = "https://app.example.org"
BOUNDARY = "0123456789"


class Contract(NamedTuple):
    """Where a contract's offers go, and how they are wrapped; `sdp` is a JSON string without its quotes."""

    path: str
    content_type: str
    wrap: Callable[[str], str]
    too_large: int = 413
    full: int = 429


def parts(sdp: str) -> str:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="sdp"\r\n\r\n'
    return f"{head}{sdp}\r\n--{BOUNDARY}--\r\n"


NUMBERS = itertools.count()
CONTRACTS = {
    "whip": Contract("/whip", SDP, str),
    "whep": Contract("/whep", SDP, str),
    "realtime": Contract("/v1/realtime/calls", SDP, str),
    "realtime-parts": Contract(
        "/v1/realtime/calls", f"multipart/form-data; boundary={BOUNDARY}", parts
    ),
    "pipecat": Contract(
        "/api/offer", JSON, lambda sdp: f'{{"type":"offer","sdp":{json.dumps(sdp)}}}'
    ),
    "fastrtc": Contract(  # says no with 200
        "/webrtc/offer",
        JSON,
        lambda sdp: f'{{"type":"offer","webrtc_id":"{next(NUMBERS)}","sdp":{json.dumps(sdp)}}}',
        200,
        200,
    ),
}
EVERY = pytest.mark.parametrize("contract", CONTRACTS.values(), ids=CONTRACTS)


async def post(
    here: Server,
    contract: Contract,
    body: str | bytes,
    key: str = KEY,
    page: str = PAGE,
    **headers: str,
) -> ClientResponse:
    sent = {"Content-Type": contract.content_type, "Origin": page}
    if key:
        sent["Authorization"] = f"Bearer {key}"
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    data = body.encode() if isinstance(body, str) else body
    response = await here.client.post(contract.path, data=data, headers=sent)
    await response.read()
    return response


async def is_answered(response: ClientResponse) -> bool:
    return "a=ice-lite" in (await response.text())


@pytest.fixture
def closed(tmp_path: Path) -> AccessSettings:
    path = tmp_path / "keys"
    path.write_text(f"web:{KEY}\nother:{OTHER}\n")
    return AccessSettings(str(path), sessions_per_key=2)


@EVERY
def test_who_has_a_key_calls_up_to_its_cap_from_any_page(
    contract: Contract, closed: AccessSettings
) -> None:
    async def run() -> None:
        async with server(access=closed) as here:
            # given a page's browser, which asks first
            wanted = {"Access-Control-Request-Method": "POST", "Origin": PAGE}
            asked = await here.client.options(contract.path, headers=wanted)
            assert asked.status == 204
            allowed = asked.headers["Access-Control-Allow-Headers"]
            for header in ("authorization", "content-type", "if-match", "x-openai-agents-sdk"):
                assert header in allowed

            # when it calls without a key, and as often as the key may
            refused = await post(here, contract, contract.wrap(CHROMIUM), key="")
            assert refused.status == 401
            assert refused.headers["WWW-Authenticate"].startswith("Bearer ")
            for _ in range(2):
                answer = await post(here, contract, contract.wrap(CHROMIUM))
                assert await is_answered(answer)
                assert answer.headers["Access-Control-Allow-Origin"] == PAGE
                for header in ("Location", "ETag", "Link"):
                    assert header in answer.headers["Access-Control-Expose-Headers"]

            # then that was enough, and another key is not concerned
            once_more = await post(here, contract, contract.wrap(CHROMIUM))
            assert once_more.status == contract.full
            assert not await is_answered(once_more)
            assert await is_answered(await post(here, contract, contract.wrap(CHROMIUM), OTHER))
            calls = here.registry._by_id.values()
            owners = [one.request.key for one in calls if isinstance(one, LiveSession)]
            assert owners == ["web", "web", "other"]

    asyncio.run(run())


@EVERY
def test_who_asks_too_often_is_told_when_to_come_again(
    contract: Contract, closed: AccessSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "KEY_RATE", Rate(burst=1, per_s=0.001))

    async def run() -> None:
        async with server(access=closed) as here:
            assert await is_answered(await post(here, contract, contract.wrap(CHROMIUM)))
            refused = await post(here, contract, contract.wrap(CHROMIUM))

            assert refused.status == 429
            assert int(refused.headers["Retry-After"]) > 0
            assert refused.headers["Access-Control-Allow-Origin"] == PAGE

    asyncio.run(run())


@EVERY
def test_what_is_too_large_costs_nothing(contract: Contract) -> None:
    async def run() -> None:
        async with server() as here:
            long_offer = contract.wrap(CHROMIUM + "a=x\r\n" * (MAX_OFFER_BYTES // 5))
            assert (await post(here, contract, long_offer, page="")).status == contract.too_large
            long_body = contract.wrap("x" * MAX_BODY_BYTES)
            assert (await post(here, contract, long_body, page="")).status == 413
            bomb = gzip.compress(contract.wrap("x" * (8 * MAX_BODY_BYTES)).encode())
            unpacked = await post(here, contract, bomb, page="", Content_Encoding="gzip")
            assert unpacked.status in (400, 413)
            assert not here.registry.sessions

    asyncio.run(run())


BAD_BODIES = {
    "empty": b"",
    "no text": b"\xff\xfe\x00",
    "half": b'{"sdp":"v=0',
    "null": b"null",
    "list": b"[]",
    "deep": b"[" * 100_000,
    "numbers": b'{"sdp":1,"type":2,"webrtc_id":3,"pc_id":4,"candidates":5}',
    "long number": b'{"a":' + b"9" * 10_000 + b"}",
    "surrogate": rb'{"type":"offer","webrtc_id":"\ud800","pc_id":"\ud800","sdp":"v=0\ud800"}',
    "other boundary": b"--x\r\n\r\n",
    "binary sdp": b"v=0\r\n\x00\x01\x02",
    "only v=0": b"v=0",
}


@EVERY
def test_a_bad_body_is_the_clients_fault(
    contract: Contract, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with server() as here:
            for name, body in BAD_BODIES.items():
                response = await post(here, contract, body, page="")

                told = json.loads(await response.text())
                assert response.status < 500, name
                assert "error" in told or told["status"] == "failed", name
                assert not here.registry.sessions, name

    asyncio.run(run())
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@EVERY
def test_who_sends_no_body_is_given_up(contract: Contract, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "BODY_TIMEOUT_S", 0.02)

    async def run() -> None:
        async with server() as here:
            assert here.client.port is not None
            reader, writer = await asyncio.open_connection("127.0.0.1", here.client.port)
            head = f"POST {contract.path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
            writer.write(f"{head}Content-Type: {contract.content_type}\r\n\r\n".encode())
            async with asyncio.timeout(WAIT_S):
                assert b" 408 " in await reader.readline()
            writer.close()
            await writer.wait_closed()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("method", "path", "content_type", "body"),
    [
        ("DELETE", "/whip/{}", "", ""),
        ("PATCH", "/whip/{}", "application/trickle-ice-sdpfrag", ""),
        ("DELETE", "/whep/{}", "", ""),
        ("GET", "/sessions/{}", "", ""),
        ("POST", "/v1/realtime/calls/rtc_{}/hangup", "", ""),
        ("PATCH", "/api/offer", JSON, '{{"pc_id":"{}","candidates":[]}}'),
    ],
    ids=["delete", "patch", "whep", "describe", "hangup", "candidates"],
)
def test_anothers_call_looks_like_none_at_all(
    closed: AccessSettings, method: str, path: str, content_type: str, body: str
) -> None:
    async def run() -> None:
        async with server(access=closed) as here:
            location = (await post(here, CONTRACTS["whip"], CHROMIUM)).headers["Location"]
            theirs = location.rpartition("/")[2]
            answers = []
            for public_id in (theirs, "A" * len(theirs), "x", "%00", "..%2f"):
                response = await here.client.request(
                    method,
                    path.format(public_id),
                    data=body.format(public_id),
                    headers={
                        "Authorization": f"Bearer {OTHER}",
                        "Content-Type": content_type or JSON,
                        "If-Match": "*",
                    },
                )
                answers.append((response.status, await response.json()))

            assert {status for status, _ in answers} == {404}
            assert answers[0][1] == answers[1][1]
            assert here.registry.sessions == 1

    asyncio.run(run())
