"""Pipecat's SmallWebRTC contract, for plain agents, as its client uses it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from tests.support.client import Call
from tests.unit.transceiver.signalling.test_access import FILE, PHONES, WEB, closed
from tests.unit.transceiver.signalling.test_calls import two
from tests.unit.transceiver.signalling.test_offer import CHROMIUM
from tests.unit.transceiver.signalling.test_whip import Server, server
from tests.unit.transceiver.test_session import WAIT_S
from voicerelay.echo import echo
from voicerelay.transceiver.agent import Session
from voicerelay.transceiver.registry import session_id
from voicerelay.transceiver.session import LiveSession, State
from voicerelay.transceiver.settings import AccessSettings
from voicerelay.transceiver.signalling import pipecat as module
from voicerelay.transceiver.signalling.iceservers import IceServer
from voicerelay.transceiver.signalling.offer import MAX_OFFER_BYTES
from voicerelay.transceiver.signalling.pipecat import MAX_START_BYTES, START_TTL_S
from voicerelay.transceiver.signalling.rtvi import Rtvi

OFFER = {"sdp": CHROMIUM, "type": "offer", "pc_id": None, "restart_pc": False}
CANDIDATE = {
    "candidate": "candidate:1 1 udp 2122260223 6fb0e1ac.local 46154 typ host",
    "sdp_mid": "0",
    "sdp_mline_index": 0,
}


async def ask(
    here: Server, body: object, path: str = "/api/offer", method: str = "POST", key: str = ""
) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with here.client.request(method, path, json=body, headers=headers) as response:
        return response.status, await response.json()


def session_of(here: Server, told: dict[str, str]) -> LiveSession:
    session = here.registry.get(told["pc_id"])
    assert session is not None
    return session


def test_an_offer_is_answered_and_the_agent_is_told_what_came_with_it() -> None:
    async def run() -> None:
        async with server() as here:
            status, told = await ask(here, OFFER | {"requestData": {"voice": "alto"}})

            assert status == 200
            assert set(told) == {"sdp", "type", "pc_id"}
            assert told["type"] == "answer"
            assert told["sdp"].startswith("v=0\r\n")
            session = session_of(here, told)
            assert session.request.body == {"voice": "alto"}
            assert isinstance(session._channels.dialect, Rtvi)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ([], 400),
        (OFFER | {"type": "answer"}, 400),
        (OFFER | {"sdp": None}, 400),
        (OFFER | {"sdp": "v=0"}, 406),
        (OFFER | {"sdp": "v=0\r\n" + "a=x\r\n" * (MAX_OFFER_BYTES // 5)}, 413),
    ],
)
def test_a_bad_offer_is_final_for_the_client(body: object, status: int) -> None:
    async def run() -> None:
        async with server() as here:
            assert (await ask(here, body))[0] == status
            assert here.registry.sessions == 0

    asyncio.run(run())


def test_what_is_not_json_is_refused() -> None:
    async def run() -> None:
        async with server() as here:
            for body, kind, status in (
                ("{", "application/json", 400),
                ("[" * 100_000, "application/json", 400),
                ("{}", "text/plain", 415),
            ):
                async with here.client.post(
                    "/api/offer", data=body, headers={"Content-Type": kind}
                ) as response:
                    assert response.status == status

    asyncio.run(run())


def test_without_room_the_client_may_try_again() -> None:
    async def run() -> None:
        async with server(most=0) as here:
            status, told = await ask(here, OFFER)
            assert (status, told["error"]["code"]) == (503, "server_full")

    asyncio.run(run())


def test_candidates_are_accepted_at_once_wherever_they_land() -> None:
    async def run() -> None:
        async with two() as (ours, theirs):
            _, told = await ask(theirs, OFFER)
            body = {"pc_id": told["pc_id"], "candidates": [CANDIDATE, {"candidate": ""}]}

            for here in (ours, theirs):
                assert await ask(here, body, method="PATCH") == (200, {"status": "success"})

    asyncio.run(run())


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"pc_id": "unknown", "candidates": []}, 404),
        ({"pc_id": session_id(0, 1), "candidates": []}, 404),
        ({"pc_id": session_id(0, 9), "candidates": []}, 404),
        ({"pc_id": None, "candidates": []}, 400),
        ({"candidates": []}, 400),
        ({"pc_id": "x", "candidates": "all"}, 400),
    ],
)
def test_candidates_of_nobody_are_refused(body: object, status: int) -> None:
    async def run() -> None:
        async with server() as here:
            assert (await ask(here, body, method="PATCH"))[0] == status

    asyncio.run(run())


def test_a_client_comes_back_to_its_call_by_its_pc_id() -> None:
    async def run() -> None:
        async with two() as (ours, theirs):
            # given a call of the other transceiver
            _, first = await ask(theirs, OFFER)
            session = session_of(theirs, first)
            ufrag = session.ufrag

            # when its client makes a new peer connection
            again = OFFER | {"pc_id": first["pc_id"], "restart_pc": True}
            status, second = await ask(ours, again)

            # then it is the same call, on new credentials
            assert status == 200
            assert second["pc_id"] == first["pc_id"]
            assert session_of(theirs, second) is session
            assert session.ufrag != ufrag
            assert f"a=ice-ufrag:{session.ufrag}" in second["sdp"]
            assert (ours.registry.sessions, theirs.registry.sessions) == (0, 1)

    asyncio.run(run())


def test_a_client_that_renegotiates_keeps_its_connection() -> None:
    async def run() -> None:
        async with server() as here:
            _, first = await ask(here, OFFER)
            muted = OFFER | {
                "pc_id": first["pc_id"],
                "sdp": CHROMIUM.replace("a=sendrecv", "a=recvonly"),
            }
            status, second = await ask(here, muted)

            assert (status, second["pc_id"]) == (200, first["pc_id"])
            assert "a=sendonly" in second["sdp"]
            for line in ("a=ice-ufrag", "a=fingerprint", "a=ssrc", "o="):
                assert _of(second["sdp"], line) == _of(first["sdp"], line)
            another = OFFER | {
                "pc_id": first["pc_id"],
                "sdp": CHROMIUM.replace("A0:A1:A2", "A0:A1:A3"),
            }
            assert (await ask(here, another))[0] == 406
            assert here.registry.sessions == 1

    asyncio.run(run())


def _of(sdp: str, begin: str) -> list[str]:
    """The first two words of each such line: what must not change (of o= not the version)."""
    return [" ".join(line.split()[:2]) for line in sdp.splitlines() if line.startswith(begin)]


def test_an_unknown_pc_id_begins_a_new_call() -> None:
    async def run() -> None:
        async with server() as here:
            status, told = await ask(here, OFFER | {"pc_id": "long gone", "restart_pc": True})
            assert status == 200
            assert told["pc_id"] != "long gone"

    asyncio.run(run())


# ---- starts --------------------------------------------------------------------------------------


def test_a_start_leads_to_an_offer_and_its_body_to_the_agent() -> None:
    async def run() -> None:
        async with two() as (ours, theirs):
            status, start = await ask(theirs, {"body": {"user": "alice"}}, "/start")
            assert (status, set(start)) == (200, {"sessionId"})

            path = f"/sessions/{start['sessionId']}/api/offer"
            status, told = await ask(ours, OFFER, path)

            assert status == 200
            assert session_of(theirs, told).request.body == {"user": "alice"}
            body = {"pc_id": told["pc_id"], "candidates": [CANDIDATE]}
            assert await ask(ours, body, path, "PATCH") == (200, {"status": "success"})

    asyncio.run(run())


def test_a_start_needs_no_body() -> None:
    async def run() -> None:
        async with server() as here:
            async with here.client.post("/start") as response:
                assert response.status == 200
            assert (await ask(here, {"transport": "webrtc"}, "/start"))[0] == 200

    asyncio.run(run())


def test_a_start_tells_of_the_ice_servers() -> None:
    async def run() -> None:
        async with server(servers=[IceServer(("turn:192.0.2.1",), "u", "c")]) as here:
            _, start = await ask(here, {"enableDefaultIceServers": True}, "/start")
            expected = {"urls": ["turn:192.0.2.1"], "username": "u", "credential": "c"}
            assert start["iceConfig"] == {"iceServers": [expected]}

    asyncio.run(run())


@pytest.mark.parametrize("over", [0, 1])
def test_a_start_has_its_limit(over: int) -> None:
    async def run() -> None:
        async with server() as here:
            padding = "x" * (MAX_START_BYTES - len('{"body": ""}') + over)
            assert (await ask(here, {"body": padding}, "/start"))[0] == (413 if over else 200)

    asyncio.run(run())


def test_an_unknown_or_old_start_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_STARTS", 2)

    async def run() -> None:
        async with server() as here:
            starts = [(await ask(here, {}, "/start"))[1]["sessionId"] for _ in range(3)]
            statuses = [
                (await ask(here, OFFER, f"/sessions/{start}/api/offer"))[0]
                for start in (*starts, "unknown", session_id(0, 9))
            ]
            assert statuses == [404, 200, 200, 404, 404]

            # and after a while none of them begins a call, but a call comes back by its own
            path = f"/sessions/{starts[2]}/api/offer"
            _, told = await ask(here, OFFER, path)
            monkeypatch.setattr(module, "START_TTL_S", -1.0)
            _, late = await ask(here, {}, "/start")
            assert (await ask(here, OFFER, f"/sessions/{late['sessionId']}/api/offer"))[0] == 404
            again = OFFER | {"pc_id": told["pc_id"], "restart_pc": True}
            path = f"/sessions/{late['sessionId']}/api/offer"
            assert (await ask(here, again, path))[0] == 200

    assert START_TTL_S > 60
    asyncio.run(run())


def test_everything_of_a_call_is_its_own_keys(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(FILE)
    keys = AccessSettings(str(tmp_path / "keys"))

    async def run() -> None:
        async with closed(keys) as here:
            _, start = await ask(here, {"body": 1}, "/start", key=WEB)
            path = f"/sessions/{start['sessionId']}/api/offer"
            assert (await ask(here, OFFER, path))[0] == 401
            assert (await ask(here, OFFER, path, key=PHONES))[0] == 404
            status, told = await ask(here, OFFER, path, key=WEB)
            assert status == 200
            body = {"pc_id": told["pc_id"], "candidates": []}
            assert (await ask(here, body, method="PATCH", key=PHONES))[0] == 404
            assert (await ask(here, body, method="PATCH", key=WEB))[0] == 200

    asyncio.run(run())


# ---- whole calls ---------------------------------------------------------------------------------


class PipecatCall(Call):
    """A stock client that calls like Pipecat's."""

    pc_id: str | None = None

    async def offer(self, http: ClientSession, sdp: str) -> str:
        body = {"sdp": sdp, "type": "offer", "pc_id": self.pc_id, "restart_pc": bool(self.pc_id)}
        async with http.post(f"{self.url}/api/offer", json=body) as response:
            assert response.status == 200
            told = await response.json()
        self.pc_id = told["pc_id"]
        answer: str = told["sdp"]
        return answer


async def heard(call: Call) -> None:
    """Talk until some of it has come back."""
    async with asyncio.timeout(WAIT_S):
        while len(call.received) < 10:
            await call.talk(0.1)


def test_the_agent_goes_on_when_its_client_comes_back() -> None:
    agents: list[Session] = []

    async def once(session: Session) -> None:
        agents.append(session)
        await echo(session)

    async def run() -> None:
        async with server(agent=once) as here, ClientSession() as http:
            # given a call
            url = str(here.client.make_url("")).rstrip("/")
            first = PipecatCall(url)
            await first.connect(http)
            await heard(first)

            # when its client makes a new peer connection
            second = PipecatCall(url)
            second.pc_id = first.pc_id
            await second.connect(http)

            # then it is heard, and the agent is the same
            await heard(second)
            assert len(agents) == 1
            assert here.registry.sessions == 1
            session = session_of(here, {"pc_id": str(second.pc_id)})
            assert session.state is State.CONNECTED
            await first.close()
            await second.close()
            await session.ended.wait()

    asyncio.run(run())
