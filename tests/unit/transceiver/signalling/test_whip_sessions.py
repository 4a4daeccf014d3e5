"""WHIP sessions after their offer (RFC 9725 §4.3): PATCH, DELETE and figures, for those who know the id."""

import asyncio

import pytest

from tests.unit.transceiver.signalling.test_whip import (
    NOBODYS,
    OURS,
    RESTART,
    TRICKLE,
    code_of,
    server,
)
from tests.unit.transceiver.test_session import ice_of
from voicerelay.shm.counters import MAX_TRANSCEIVERS
from voicerelay.transceiver.directory import CONTROL_GONE
from voicerelay.transceiver.registry import session_id
from voicerelay.transceiver.signalling.sdpfrag import MAX_FRAGMENT_BYTES, parse_fragment
from voicerelay.transceiver.signalling.whip import SDP, SDP_FRAGMENT

# ---- sessions ------------------------------------------------------------------------------------


def test_delete_ends_a_session_once() -> None:
    async def run() -> None:
        async with server() as here:
            location = (await here.offer()).headers["Location"]

            statuses = [(await here.client.delete(location)).status for _ in range(2)]

            assert statuses == [200, 404]
            assert (here.registry.sessions, here.here.directory.routes) == (0, {})

    asyncio.run(run())


@pytest.mark.parametrize(
    "public_id",
    ["unknown", "x" * 200, session_id(0, OURS), session_id(0, NOBODYS), "%00", "%ff"],
    ids=["unknown", "long", "ours", "nobodys", "nul", "no_utf8"],
)
def test_an_unknown_session_is_not_found(public_id: str) -> None:
    async def run() -> None:
        async with server() as here:
            found = [
                (await here.client.delete(f"/whip/{public_id}")).status,
                (await here.patch(f"/whip/{public_id}", TRICKLE, If_Match='"x"')).status,
                (await here.client.get(f"/sessions/{public_id}")).status,
            ]
            assert found == [404] * 3

    asyncio.run(run())


def test_guessed_ids_are_not_remembered_for_slots_that_cannot_exist() -> None:
    async def run() -> None:
        async with server() as here:
            for slot in range(0, 0xFFFF, 101):
                assert (await here.client.get(f"/sessions/{session_id(0, slot)}")).status == 404

            assert len(here.siblings._clients) <= MAX_TRANSCEIVERS

    asyncio.run(run())


PATCHES: dict[str, tuple[str, dict[str, str], tuple[int, str]]] = {
    "no If-Match": (TRICKLE, {}, (428, "precondition_required")),
    "old ETag": (TRICKLE, {"If_Match": '"old"'}, (412, "precondition_failed")),
    "weak ETag": (TRICKLE, {"If_Match": 'W/"old"'}, (412, "precondition_failed")),
    "not a fragment": ("x", {"If_Match": '"old"'}, (400, "malformed_sdpfrag")),
    "bad ufrag": ("a=ice-ufrag:x\r\n", {"If_Match": "*"}, (400, "malformed_sdpfrag")),
    "restart without": (TRICKLE, {"If_Match": "*"}, (400, "no_ice_credentials")),
    "too long": ("a=x\r\n" * MAX_FRAGMENT_BYTES, {"If_Match": "*"}, (413, "")),
    "a bit too long": ("a=x\r\n" * (MAX_FRAGMENT_BYTES // 4), {"If_Match": "*"}, (413, "")),
    "another type": (TRICKLE, {"If_Match": "*", "Content_Type": SDP}, (415, "content_type")),
}


@pytest.mark.parametrize(("body", "headers", "expected"), PATCHES.values(), ids=PATCHES)
def test_a_bad_patch_has_the_contracts_status_and_changes_nothing(
    body: str, headers: dict[str, str], expected: tuple[int, str]
) -> None:
    async def run() -> None:
        async with server() as here:
            location = (await here.offer()).headers["Location"]
            routes = dict(here.here.directory.routes)

            status, code = await code_of(await here.patch(location, body, **headers))

            assert status == expected[0]
            assert expected[1] in code
            assert here.here.directory.routes == routes

    asyncio.run(run())


def test_trickle_is_accepted_and_ignored() -> None:
    async def run() -> None:
        async with server() as here:
            created = await here.offer()

            tag = created.headers["ETag"]
            for body, match in (
                (TRICKLE, tag),
                ("a=end-of-candidates\r\n", f'"another", {tag}'),  # RFC 9110 §13.1.1
                ("", tag),
            ):
                found = await here.patch(created.headers["Location"], body, If_Match=match)
                assert (found.status, await found.read()) == (204, b"")

    asyncio.run(run())


@pytest.mark.parametrize("star", ["*", '"*"'])
def test_a_restart_gives_new_credentials_and_a_new_etag(star: str) -> None:
    async def run() -> None:
        async with server() as here:
            # given a session
            created = await here.offer()
            location, old = created.headers["Location"], created.headers["ETag"]
            session = here.registry.get(location.rpartition("/")[2])
            assert session is not None
            before = session.ufrag

            # when the client restarts ICE
            response = await here.patch(location, RESTART, If_Match=star)

            # then the answer carries what the session now uses
            fragment = parse_fragment(await response.text())
            assert (response.status, response.headers["Content-Type"]) == (200, SDP_FRAGMENT)
            assert (fragment.ufrag, fragment.password) == (session.ufrag, session.password)
            assert fragment.ufrag != before
            assert fragment.candidates == 1
            assert ice_of(session).credentials.remote_ufrag == b"efgh"

            # and only the new ETag is good
            new = response.headers["ETag"]
            tags = [
                (await here.patch(location, TRICKLE, If_Match=tag)).status for tag in (old, new)
            ]
            assert tags == [412, 204]

    asyncio.run(run())


def test_a_restart_without_control_fails_and_keeps_the_session() -> None:
    async def run() -> None:
        async with server() as here:
            created = await here.offer()
            location, etag = created.headers["Location"], created.headers["ETag"]
            here.here.directory.error = CONTROL_GONE

            response = await here.patch(location, RESTART, If_Match="*")

            assert await code_of(response) == (503, "no_route")
            assert (await here.patch(location, TRICKLE, If_Match=etag)).status == 204

    asyncio.run(run())
