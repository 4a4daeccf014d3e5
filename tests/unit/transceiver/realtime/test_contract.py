"""OpenAI's contract as its clients see it: calls, hang-up, secrets, errors, calls elsewhere."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import ClientResponse

from tests.unit.transceiver.signalling.test_access import PHONES, WEB
from tests.unit.transceiver.signalling.test_calls import two
from tests.unit.transceiver.signalling.test_offer import CHROMIUM
from tests.unit.transceiver.signalling.test_whip import Server, server
from tests.unit.transceiver.test_channels import FakeChannel
from voicerelay.transceiver.realtime import ephemeral
from voicerelay.transceiver.realtime.contract import MAX_PARTS, SECRETS_PATH
from voicerelay.transceiver.realtime.oai import CALLS_PATH, CHANNEL
from voicerelay.transceiver.session import LiveSession
from voicerelay.transceiver.settings import AccessSettings
from voicerelay.transceiver.signalling import keyfile
from voicerelay.transceiver.signalling.calls import MAX_BODY_BYTES

SDP = "application/sdp"


async def call(
    here: Server, sdp: str = CHROMIUM, query: str = "", **headers: str
) -> ClientResponse:
    response = await here.client.post(
        f"{CALLS_PATH}{query}", data=sdp, headers={"Content-Type": SDP} | headers
    )
    await response.read()
    return response


async def call_with(here: Server, **parts: str) -> ClientResponse:
    """A multipart call."""
    form = aiohttp.FormData()
    for name, text in parts.items():
        form.add_field(name, text, content_type="text/plain")
    response = await here.client.post(CALLS_PATH, data=form(), headers=None)
    await response.read()
    return response


async def secret(here: Server, **asked: Any) -> tuple[int, Any]:
    response = await here.client.post(SECRETS_PATH, json=asked)
    return response.status, await response.json()


def session_of(here: Server) -> LiveSession:
    (session,) = here.registry._by_id.values()
    assert isinstance(session, LiveSession)
    return session


def told(here: Server) -> list[dict[str, Any]]:
    """What a client that opens its channel now is told."""
    channel = FakeChannel(CHANNEL)
    assert session_of(here).channel_opened(channel)
    return [json.loads(text) for text in channel.sent]


async def error_of(response: ClientResponse) -> tuple[int, str, str]:
    error = (await response.json())["error"]
    assert set(error) == {"message", "type", "code", "param"}
    return response.status, error["code"], error["type"]


def test_an_offer_is_answered_with_sdp_and_a_call_id_at_the_end_of_location() -> None:
    async def run() -> None:
        async with server() as here:
            response = await call(here, query="?model=m")

            assert (response.status, response.headers["Content-Type"]) == (201, SDP)
            assert response.headers["Location"] == f"{CALLS_PATH}/rtc_{session_of(here).id}"
            assert (await response.text()).startswith("v=0\r\n")
            (created,) = told(here)
            assert created["type"] == "session.created"
            assert created["session"]["model"] == "m"

    asyncio.run(run())


def test_a_session_may_come_beside_the_offer() -> None:
    async def run() -> None:
        async with server() as here:
            response = await call_with(here, sdp=CHROMIUM, session='{"instructions": "be"}')

            assert response.status == 201
            assert told(here)[0]["session"]["instructions"] == "be"

    asyncio.run(run())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--x",
        b"--x\r\n",
        b"--x\r\nA\r\n\r\n",
        b"--x\r\n\r\n\xff\r\n--x--",
        b"--y--",
        b"x" * 5000,
    ],
    ids=range(7),
)
@pytest.mark.parametrize("boundary", ["; boundary=x", ""])
def test_a_multipart_body_that_is_none_is_the_clients_fault(body: bytes, boundary: str) -> None:
    async def run() -> None:
        async with server() as here:
            headers = {"Content-Type": f"multipart/form-data{boundary}"}
            async with here.client.post(CALLS_PATH, data=body, headers=headers) as response:
                assert (await error_of(response))[0] == 400

    asyncio.run(run())


@pytest.mark.parametrize(
    ("parts", "status", "code"),
    [
        ({"session": "{}"}, 400, "missing_sdp"),
        ({"sdp": "no sdp"}, 400, "malformed_sdp"),
        ({"sdp": CHROMIUM, "session": "[]"}, 400, "malformed_body"),
        ({"sdp": CHROMIUM, "session": "{"}, 400, "malformed_body"),
        ({"sdp": CHROMIUM, "session": '{"x":' * 40 + "1" + "}" * 40}, 400, "invalid_session"),
        ({str(n): "x" for n in range(MAX_PARTS + 1)}, 400, "malformed_body"),
    ],
    ids=range(6),
)
def test_a_bad_body_is_told_in_openais_shape(parts: dict[str, str], status: int, code: str) -> None:
    async def run() -> None:
        async with server() as here:
            found = await error_of(await call_with(here, **parts))

            assert found == (status, code, "invalid_request_error")
            assert here.registry.sessions == 0

    asyncio.run(run())


def test_every_error_below_v1_has_that_shape() -> None:
    async def run() -> None:
        async with server(most=0) as here:
            full = await call(here)
            assert await error_of(full) == (503, "server_full", "server_error")
            assert "Retry-After" in full.headers
            wrong = await call(here, **{"Content-Type": "text/plain"})
            assert (await error_of(wrong))[:2] == (415, "content_type")
            nowhere = await here.client.post(f"{CALLS_PATH}/rtc_none/hangup")
            assert (await error_of(nowhere))[:2] == (404, "no_session")
            assert (await error_of(await here.client.get("/v1/models")))[0] == 404
            assert (await error_of(await here.client.get("/v1/realtime")))[0] == 426
            large = await here.client.post(SECRETS_PATH, data=b"x" * (MAX_BODY_BYTES + 1))
            assert (await error_of(large))[0] == 413

    asyncio.run(run())


def test_hanging_up_ends_the_call() -> None:
    async def run() -> None:
        async with server() as here:
            location = (await call(here)).headers["Location"]

            assert (await here.client.post(f"{location}/hangup")).status == 200

            assert here.registry.sessions == 0
            assert (await here.client.post(f"{location}/hangup")).status == 404

    asyncio.run(run())


# ---- client secrets ------------------------------------------------------------------------------


def test_a_secret_carries_its_session_to_the_call() -> None:
    async def run() -> None:
        async with server() as here:
            status, made = await secret(here, session={"instructions": "be"})
            assert status == 200
            assert made["session"] == {"type": "realtime", "instructions": "be"}
            assert 0 <= made["expires_at"] - time.time() <= ephemeral.DEFAULT_LIFETIME_S

            response = await call(here, Authorization=f"Bearer {made['value']}")

            assert response.status == 201
            assert told(here)[0]["session"]["instructions"] == "be"

    asyncio.run(run())


def test_an_expired_secret_begins_no_call() -> None:
    async def run() -> None:
        async with server() as here:
            key = here.registry.cluster_key
            for value in (ephemeral.issue(key, {}, int(time.time())), "ek_", "ek_x"):
                found = await error_of(await call(here, Authorization=f"Bearer {value}"))
                assert found[:2] == (401, "invalid_api_key")
            # another kind of key is none of this contract's business
            assert (await call(here, Authorization="Bearer sk-x")).status == 201

    asyncio.run(run())


@pytest.mark.parametrize("seconds", [9, 7201, "600", None, True, 1e9])
def test_a_lifetime_that_cannot_be_is_refused(seconds: Any) -> None:
    async def run() -> None:
        async with server() as here:
            expires = {"anchor": "created_at", "seconds": seconds}
            status, body = await secret(here, expires_after=expires)
            assert (status, body["error"]["code"]) == (400, "invalid_expiry")
            for odd in ({"anchor": "x"}, 7):
                assert (await secret(here, expires_after=odd))[0] == 400

    asyncio.run(run())


def test_a_secret_calls_for_the_key_that_it_was_issued_for(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"web:{WEB}\n")

    async def run() -> None:
        async with server(access=AccessSettings(api_key_file=str(tmp_path / "keys"))) as here:
            assert (await secret(here))[0] == 401
            asked = await here.client.post(
                SECRETS_PATH, json={}, headers={"Authorization": f"Bearer {WEB}"}
            )
            ephemeral_key = {"Authorization": f"Bearer {(await asked.json())['value']}"}

            assert (await call(here, **ephemeral_key)).status == 201

            assert session_of(here).request.key == "web"
            again = await here.client.post(SECRETS_PATH, json={}, headers=ephemeral_key)
            assert (await error_of(again))[:2] == (403, "key_required")

    asyncio.run(run())


def test_a_secret_ends_with_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is taken out, or replaced under its name, takes its secrets along."""
    monkeypatch.setattr(keyfile, "KEY_FILE_LOOK_S", 0.0)
    path = tmp_path / "keys"
    path.write_text(f"web:{WEB}\nphones:{PHONES}\n")

    async def run() -> None:
        async with server(access=AccessSettings(api_key_file=str(path))) as here:
            secrets = {}
            for key in (WEB, PHONES):
                headers = {"Authorization": f"Bearer {key}"}
                asked = await here.client.post(SECRETS_PATH, json={}, headers=headers)
                secrets[key] = f"Bearer {(await asked.json())['value']}"
                assert (await call(here, Authorization=secrets[key])).status == 201

            for after in (f"web:{WEB}\n", f"web:{WEB}\nphones:another-{PHONES}\n"):
                path.write_text(after)

                refused = await call(here, Authorization=secrets[PHONES])
                assert (await error_of(refused))[:2] == (401, "invalid_token")
                assert (await call(here, Authorization=secrets[WEB])).status == 201

    asyncio.run(run())


# ---- elsewhere -----------------------------------------------------------------------------------


def test_a_call_of_a_sibling_is_hung_up_from_here() -> None:
    async def run() -> None:
        async with two(most=0) as (ours, theirs):
            response = await call(ours)
            assert (ours.registry.sessions, theirs.registry.sessions) == (0, 1)

            hung_up = await ours.client.post(f"{response.headers['Location']}/hangup")

            assert hung_up.status == 200
            assert theirs.registry.sessions == 0

    asyncio.run(run())
