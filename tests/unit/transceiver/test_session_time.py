"""A call's checks and flows, its restarts, and what time does to it, over a fake control and a real socket."""

import asyncio
import time

import pytest

from tests.unit.transceiver.test_session import (
    OPUS,
    OURS,
    host,
    ice_of,
)
from voicerelay.shm.ufrag import make_ufrag
from voicerelay.transceiver.directory import DirectoryError
from voicerelay.transceiver.ice import CONSENT_EXPIRY_S, RESTART_OVERLAP_S
from voicerelay.transceiver.reach import IDLE_PATH_S
from voicerelay.transceiver.session import (
    SETUP_TIMEOUT_S,
)

# ---- restart and time ----------------------------------------------------------------------------


def test_a_restart_keeps_the_old_ufrag_routed_only_for_the_overlap() -> None:
    async def run() -> None:
        async with host() as here:
            session = await here.session()
            old, etag = session.ufrag.encode(), session.etag
            new = make_ufrag(b"k" * 32, 0, 0)

            await session.restart_ice(new, "efgh")
            assert session.etag != etag
            assert set(here.directory.routes) == set(here.mux.by_ufrag) == {old, new}

            session.sweep(time.monotonic() + RESTART_OVERLAP_S + 1)
            assert set(here.directory.routes) == set(here.mux.by_ufrag) == {new}

    asyncio.run(run())


def test_a_failed_restart_keeps_the_old_credentials() -> None:
    async def run() -> None:
        async with host() as here:
            session, client = await here.session(), here.client()
            before = session.ufrag, session.password, session.etag
            here.directory.error = "the route table is full"

            with pytest.raises(DirectoryError):
                await session.restart_ice(make_ufrag(b"k" * 32, 0, 0), "efgh")

            here.directory.error = ""
            client.check(session)
            assert (session.ufrag, session.password, session.etag) == before
            assert client.replies() == 1

    asyncio.run(run())


def test_a_restart_of_a_session_that_ends_meanwhile_leaves_no_route() -> None:
    async def run() -> None:
        async with host() as here:
            # given a control that takes its time
            session = await here.session()
            here.directory.go_on.clear()
            restart = asyncio.create_task(session.restart_ice(make_ufrag(b"k" * 32, 0, 0), "efgh"))
            await asyncio.sleep(0)

            session.end("gone")
            await session.ended.wait()
            here.directory.go_on.set()

            with pytest.raises(DirectoryError):
                await restart
            assert (here.directory.routes, here.mux.by_ufrag) == ({}, {})

    asyncio.run(run())


def test_a_client_that_restarts_without_end_holds_at_most_two_routes() -> None:
    async def run() -> None:
        async with host() as here:
            # given a client that restarts faster than the overlap ends
            session = await here.session()
            for _ in range(20):
                await session.restart_ice(make_ufrag(b"k" * 32, 0, 0), "efgh")
                session.sweep(time.monotonic())

            # then only the ufrags whose credentials are good have a route (the table is shared)
            assert len(here.directory.routes) <= 2
            assert len(here.mux.by_ufrag) <= 2
            assert session.ufrag.encode() in here.directory.routes

    asyncio.run(run())


@pytest.mark.parametrize(
    ("connected", "after_s", "reason"),
    [
        (False, SETUP_TIMEOUT_S - 1, ""),
        (False, SETUP_TIMEOUT_S + 1, "no media within the setup time"),
        (True, CONSENT_EXPIRY_S - 1, ""),
        (True, CONSENT_EXPIRY_S + 1, "consent expired: no checks from the client"),
    ],
)
def test_a_call_without_media_or_consent_ends(connected: bool, after_s: float, reason: str) -> None:
    async def run() -> None:
        async with host() as here:
            session = await here.session()
            here.client().check(session)
            if connected:
                session.media_started(OPUS, OURS)

            session.sweep(time.monotonic() + after_s)

            assert session.end_reason == reason

    asyncio.run(run())


def test_an_idle_path_is_given_up_but_never_the_selected_one() -> None:
    async def run() -> None:
        async with host() as here:
            # given two paths that were not checked for long
            session, first, second = await here.session(), here.client(), here.client()
            for client in (first, second):
                client.check(session)
                ice_of(session).valid[client.path].checked_at -= IDLE_PATH_S + 1

            session.sweep(time.monotonic())

            assert list(ice_of(session).valid) == [first.path] == [ice_of(session).selected]
            assert here.directory.flows == {first.path: session.number}
            assert here.mux.by_path == {first.path: session}

    asyncio.run(run())
