"""The door before every contract: keys, tokens, origins, rates and caps, as clients see them."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import ClientResponse

from tests.unit.transceiver.signalling.test_calls import two
from tests.unit.transceiver.signalling.test_offer import CHROMIUM
from tests.unit.transceiver.signalling.test_whip import RESTART, TRICKLE, Server, code_of, server
from voicerelay.transceiver.settings import AccessSettings, TransceiverSettings
from voicerelay.transceiver.signalling import access as module
from voicerelay.transceiver.signalling.access import objection
from voicerelay.transceiver.signalling.buckets import Rate
from voicerelay.transceiver.signalling.iceservers import IceServer
from voicerelay.transceiver.signalling.keys import Caller, Keys
from voicerelay.transceiver.signalling.whip import SDP, SDP_FRAGMENT

WEB, PHONES = "web-key-0123456789", "phones-key-0123456789"
FILE = f"web:{WEB}\nphones:{PHONES}\n"
KEYS = Keys.parse(FILE)
PAGE, OTHER = "https://app.example.org", "https://elsewhere.example.org"


@pytest.fixture
def keys(tmp_path: Path) -> AccessSettings:
    path = tmp_path / "keys"
    path.write_text(FILE)
    return AccessSettings(str(path))


@contextlib.asynccontextmanager
async def closed(settings: AccessSettings) -> AsyncIterator[Server]:
    async with server(access=settings) as here:
        yield here


async def call(here: Server, credential: str = "", **headers: str) -> ClientResponse:
    sent = {"Content-Type": SDP} | {k.replace("_", "-"): v for k, v in headers.items()}
    if credential:
        sent["Authorization"] = f"Bearer {credential}"
    response = await here.client.post("/whip", data=CHROMIUM, headers=sent)
    await response.read()
    return response


# ---- keys and tokens -----------------------------------------------------------------------------


def test_without_a_key_nobody_calls_and_the_answer_says_what_is_wanted(
    keys: AccessSettings,
) -> None:
    async def run() -> None:
        async with closed(keys) as here:
            for credential, code in (
                (None, "unauthorized"),
                ("wrong-key-0123456789", "invalid_token"),
            ):
                response = await call(here, credential or "")

                assert await code_of(response) == (401, code)
                assert response.headers["WWW-Authenticate"].startswith("Bearer realm=")
            basic = await call(here, Authorization="Basic d2ViOnB3")
            assert await code_of(basic) == (401, "unauthorized")
            assert here.registry.sessions == 0
            assert (await here.client.get("/info")).status == 401
            assert (await here.client.get("/")).status == 200
            assert (await here.client.options("/whip")).status == 204

    asyncio.run(run())


def test_turn_credentials_are_for_those_who_may_call(keys: AccessSettings) -> None:
    async def run() -> None:
        turn = IceServer(("turn:192.0.2.1",), "u", "c")
        async with server(access=keys, servers=[turn]) as here:
            for headers, told in (({}, False), ({"Authorization": f"Bearer {WEB}"}, True)):
                asked = await here.client.options("/whip", headers=headers)
                assert asked.status == 204
                assert ("Link" in asked.headers) == told

    asyncio.run(run())


def test_a_contract_may_have_a_credential_of_its_own(keys: AccessSettings) -> None:
    async def run() -> None:
        async with closed(keys) as here:
            access = here.signalling.access
            eve = replace(KEYS.caller(WEB, 0.0), subject="eve")
            strange = Caller("web", "eve")  # of an earlier key with that name
            access.readers.append({"ek_1": eve, "ek_3": strange}.get)

            location = (await call(here, "ek_1")).headers["Location"]

            session = here.registry.get(location.rpartition("/")[2])
            assert session is not None
            assert (session.request.key, session.request.subject) == ("web", "eve")
            assert (await call(here, "ek_2")).status == 401
            assert (await call(here, "ek_3")).status == 401

    asyncio.run(run())


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_key_or_a_token_calls(keys: AccessSettings, scheme: str) -> None:
    async def run() -> None:
        async with closed(keys) as here:
            for credential in (WEB, KEYS.issue(time.time(), 60)):
                response = await call(here, Authorization=f"{scheme} {credential}")
                assert response.status == 201

    asyncio.run(run())


def test_the_agent_learns_whose_call_it_is_and_never_sees_the_credential(
    keys: AccessSettings,
) -> None:
    async def run() -> None:
        async with closed(keys) as here:
            token = KEYS.issue(time.time(), 60, "phones", "alice")
            location = (await call(here, token)).headers["Location"]

            session = here.registry.get(location.rpartition("/")[2])

            assert session is not None
            about = session.request
            assert (about.key, about.subject) == ("phones", "alice")
            assert token not in repr(about)

    asyncio.run(run())


def test_on_an_open_server_the_agent_sees_all_headers() -> None:
    async def run() -> None:
        async with server() as here:
            location = (await call(here, "for-the-agent")).headers["Location"]
            session = here.registry.get(location.rpartition("/")[2])
            assert session is not None
            assert session.request.headers["Authorization"] == "Bearer for-the-agent"
            assert (session.request.key, session.request.subject) == ("", "")

    asyncio.run(run())


def test_an_expired_token_begins_no_call_but_ends_its_own(
    keys: AccessSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with closed(keys) as here:
            # given a call of a token that has expired since
            token = KEYS.issue(time.time(), 60)
            location = (await call(here, token)).headers["Location"]
            real = time.time
            monkeypatch.setattr(time, "time", lambda: real() + 60)

            # then it begins no other
            assert await code_of(await call(here, token)) == (401, "token_expired")

            # and may still look after this one
            bearer = {"Authorization": f"Bearer {token}"}
            restart = await here.patch(location, RESTART, If_Match="*", **bearer)
            assert restart.status == 200
            assert (await here.client.delete(location, headers=bearer)).status == 200

    asyncio.run(run())


def test_a_call_is_its_own_keys_alone(keys: AccessSettings) -> None:
    async def run() -> None:
        async with closed(keys) as here:
            created = await call(here, WEB)
            location = created.headers["Location"]
            theirs, ours = ({"Authorization": f"Bearer {key}"} for key in (PHONES, WEB))
            figures = location.replace("/whip/", "/sessions/")
            trickle = {"If-Match": created.headers["ETag"], "Content-Type": SDP_FRAGMENT}

            for headers, status in (({}, 401), (theirs, 404)):
                seen = [
                    (await here.client.get(figures, headers=headers)).status,
                    (
                        await here.client.patch(location, data=TRICKLE, headers=headers | trickle)
                    ).status,
                    (await here.client.delete(location, headers=headers)).status,
                ]
                assert seen == [status] * 3

            patched = await here.client.patch(location, data=TRICKLE, headers=ours | trickle)
            assert patched.status == 204
            assert (await here.client.delete(location, headers=ours)).status == 200

    asyncio.run(run())


def test_a_sibling_asks_for_the_key_too(keys: AccessSettings) -> None:
    async def run() -> None:
        async with two(access=keys) as (ours, theirs):
            location = (await call(theirs, WEB)).headers["Location"]

            wrong = await ours.client.delete(
                location, headers={"Authorization": f"Bearer {PHONES}"}
            )
            right = await ours.client.delete(location, headers={"Authorization": f"Bearer {WEB}"})

            assert (wrong.status, right.status) == (404, 200)

    asyncio.run(run())


# ---- caps ----------------------------------------------------------------------------------------


def test_a_key_has_so_many_calls_at_once_on_all_transceivers(keys: AccessSettings) -> None:
    async def run() -> None:
        async with two(access=replace(keys, sessions_per_key=2)) as (ours, theirs):
            # given a key with as many calls as it may have
            first = await call(ours, WEB)
            assert first.status == 201
            assert (await call(theirs, KEYS.issue(time.time(), 60, "web"))).status == 201

            # then it has no more, here or there, and other keys have
            for here in (ours, theirs):
                refused = await call(here, WEB)
                assert await code_of(refused) == (429, "too_many_sessions")
                assert int(refused.headers["Retry-After"]) > 0
            assert (await call(ours, PHONES)).status == 201

            # and one that has ended makes room
            bearer = {"Authorization": f"Bearer {WEB}"}
            await ours.client.delete(first.headers["Location"], headers=bearer)
            await asyncio.sleep(0)
            assert (await call(theirs, WEB)).status == 201

    asyncio.run(run())


@pytest.mark.parametrize("subject", ["", "alice"])
def test_a_token_has_a_cap_of_its_own(keys: AccessSettings, subject: str) -> None:
    async def run() -> None:
        async with closed(keys) as here:
            tokens = [KEYS.issue(time.time(), 60, "web", subject, max_sessions=1) for _ in range(2)]

            statuses = [(await call(here, token)).status for token in (*tokens, tokens[0])]

            assert statuses == ([201, 429, 429] if subject else [201, 201, 429])
            assert (await call(here, KEYS.issue(time.time(), 60, "web", "bob"))).status == 201

    asyncio.run(run())


def test_a_refused_offer_takes_no_place(keys: AccessSettings) -> None:
    async def run() -> None:
        async with closed(replace(keys, sessions_per_key=1)) as here:
            headers = {"Content-Type": SDP, "Authorization": f"Bearer {WEB}"}
            bad = CHROMIUM.replace("a=rtcp-mux\r\n", "")
            for sdp in (bad, "v=0", bad):
                assert (await here.client.post("/whip", data=sdp, headers=headers)).status >= 400

            assert (await call(here, WEB)).status == 201

    asyncio.run(run())


# ---- rates ---------------------------------------------------------------------------------------

FEW = Rate(burst=2, per_s=0.001)


def test_too_many_requests_are_told_when_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ADDRESS_RATE", FEW)

    async def run() -> None:
        async with server() as here:
            # given a client behind a proxy that has asked too often
            client = {"X_Forwarded_For": "198.51.100.1, 192.0.2.7"}
            statuses = [(await call(here, **client)).status for _ in range(3)]
            refused = await call(here, **client)

            assert statuses == [201, 201, 429]
            assert await code_of(refused) == (429, "too_many_requests")
            assert int(refused.headers["Retry-After"]) > 0
            # others, reading, and this machine are not held up
            assert (await call(here, X_Forwarded_For="192.0.2.8")).status == 201
            assert (
                await here.client.get("/", headers={"X-Forwarded-For": "192.0.2.7"})
            ).status == 200
            assert (await call(here)).status == 201

    asyncio.run(run())


def test_who_guesses_keys_is_slowed_down(
    keys: AccessSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ADDRESS_RATE", FEW)

    async def run() -> None:
        async with closed(keys) as here:
            guesses = [
                (await call(here, "guess-0123456789", X_Forwarded_For="192.0.2.7")).status
                for _ in range(4)
            ]
            assert guesses == [401, 401, 429, 429]
            assert (await call(here, WEB, X_Forwarded_For="192.0.2.7")).status == 201

    asyncio.run(run())


def test_a_key_has_a_rate_of_its_own_and_a_tokens_users_have_theirs(
    keys: AccessSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ADDRESS_RATE", FEW)
    monkeypatch.setattr(module, "KEY_RATE", Rate(burst=3, per_s=0.001))

    async def run() -> None:
        async with closed(keys) as here:
            by_key = [(await call(here, WEB)).status for _ in range(4)]
            alice, bob = (KEYS.issue(time.time(), 60, "phones", name) for name in ("alice", "bob"))
            by_token = [(await call(here, token)).status for token in (alice, alice, alice, bob)]

            assert by_key == [201, 201, 201, 429]
            assert by_token[2:] == [429, 503]  # this one found no room, which is another thing

    asyncio.run(run())


@pytest.mark.parametrize(
    ("remote", "told", "address"),
    [
        ("192.0.2.1", "", "192.0.2.1"),
        ("192.0.2.1", "198.51.100.1", "192.0.2.1"),
        ("127.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("127.0.0.1", "203.0.113.9, 198.51.100.1", "198.51.100.1"),
        ("::1", "2001:db8:1:2:3::4", "2001:db8:1:2::"),
        ("2001:db8:1:2::9", "", "2001:db8:1:2::"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", "no address", ""),
        ("127.0.0.1", "x." * 100, ""),
        ("::1", "", "::1"),
    ],
)
def test_where_a_request_comes_from(remote: str, told: str, address: str) -> None:
    assert module.address_of(remote, told) == address


# ---- pages from elsewhere ------------------------------------------------------------------------


async def preflight(here: Server, origin: str, path: str = "/whip") -> ClientResponse:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    return await here.client.options(path, headers=headers)


def test_with_keys_every_page_may_call_and_read_what_it_needs(keys: AccessSettings) -> None:
    async def run() -> None:
        async with closed(keys) as here:
            for path in ("/whip", "/whip/some-id", "/no/such/path"):
                asked = await preflight(here, PAGE, path)
                assert asked.status == 204
                assert asked.headers["Access-Control-Allow-Origin"] == PAGE
                allowed = asked.headers["Access-Control-Allow-Headers"].split(", ")
                assert {"authorization", "content-type", "if-match"} <= set(allowed)
                assert "x-openai-agents-sdk" in allowed
            made, refused = await call(here, WEB, Origin=PAGE), await call(here, Origin=PAGE)
            lost = await here.client.get("/no/such/path", headers={"Origin": PAGE})
            for response, status in ((made, 201), (refused, 401), (lost, 401)):
                assert response.status == status
                assert response.headers["Access-Control-Allow-Origin"] == PAGE
                assert response.headers["Vary"] == "Origin"
                exposed = response.headers["Access-Control-Expose-Headers"].split(", ")
                assert {"Location", "ETag", "Link"} <= set(exposed)

    asyncio.run(run())


def test_listed_pages_may_and_others_may_not(keys: AccessSettings) -> None:
    async def run() -> None:
        async with closed(replace(keys, cors_origins=[PAGE])) as here:
            assert (await preflight(here, PAGE)).status == 204
            assert await code_of(await preflight(here, OTHER)) == (403, "origin")
            assert await code_of(await call(here, WEB, Origin=OTHER)) == (403, "origin")
            assert here.registry.sessions == 0
            assert (await call(here, WEB, Origin=PAGE)).status == 201
            read = await here.client.get("/", headers={"Origin": OTHER})
            assert "Access-Control-Allow-Origin" not in read.headers

    asyncio.run(run())


def test_an_open_server_trusts_pages_of_this_machine_only() -> None:
    async def run() -> None:
        async with server() as here:
            assert (await preflight(here, "http://localhost:5173")).status == 204
            assert (await call(here, Origin="http://localhost:5173")).status == 201
            assert await code_of(await call(here, Origin=OTHER)) == (403, "origin")
            own = str(here.client.make_url("")).rstrip("/")
            assert (await call(here, Origin=own)).status == 201

    asyncio.run(run())


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1", "[::1]:8080", "a.localhost"])
def test_an_open_server_is_reached_by_this_machines_names(host: str) -> None:
    async def run() -> None:
        async with server() as here:
            assert (await call(here, Host=host)).status == 201

    asyncio.run(run())


def test_another_name_wants_keys_or_an_open_server(keys: AccessSettings) -> None:
    async def run() -> None:
        for access, status in (
            (AccessSettings(), 403),
            (AccessSettings(open=True), 201),
            (keys, 201),
        ):
            async with server(access=access) as here:
                # A page of that very name, which points to this machine: DNS rebinding.
                headers = {"Host": "evil.example.org", "Origin": "http://evil.example.org"}
                assert (await call(here, WEB, **headers)).status == status

    asyncio.run(run())


# ---- who may be open -----------------------------------------------------------------------------


def settings(host: str, access: AccessSettings) -> TransceiverSettings:
    return TransceiverSettings("/run", 0, "a:b", host, 8080, [], 1, access=access)


@pytest.mark.parametrize(
    ("host", "access", "asgi", "says"),
    [
        ("127.0.0.1", AccessSettings(), False, ""),
        ("localhost", AccessSettings(), False, ""),
        ("::1", AccessSettings(), False, ""),
        ("0.0.0.0", AccessSettings(), False, "--api-key-file FILE, or --open"),
        ("192.0.2.1", AccessSettings(), False, "anybody could call"),
        ("0.0.0.0", AccessSettings(open=True), False, ""),
        ("0.0.0.0", AccessSettings("keys"), False, ""),
        ("0.0.0.0", AccessSettings(), True, ""),
        ("127.0.0.1", AccessSettings("keys"), True, "asks for keys itself"),
    ],
)
def test_a_server_is_open_on_loopback_or_when_its_user_says_so(
    host: str, access: AccessSettings, asgi: bool, says: str
) -> None:
    found = objection(settings(host, access), asgi)

    assert says in found
    assert bool(found) == bool(says)
