"""All sessions of a transceiver: made within limits, found by their id, swept, and ended together."""

import asyncio
import base64
import logging
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.transceiver.signalling.test_offer import CHROMIUM
from tests.unit.transceiver.test_session import WAIT_S, Host, host, ice_of, listen, until
from voicerelay.shm.counters import TransceiverCounter
from voicerelay.shm.ufrag import Ufrag, verify_ufrag
from voicerelay.transceiver.agent import Request, Session
from voicerelay.transceiver.directory import CONTROL_GONE, DirectoryError
from voicerelay.transceiver.negotiate import NotAcceptable
from voicerelay.transceiver.registry import (
    CLOSE_ALL_S,
    Registry,
    ServerFull,
    session_id,
    slot_of,
)
from voicerelay.transceiver.session import LiveSession, State
from voicerelay.transceiver.signalling.offer import check_offer

SLOT, MAX_SESSIONS = 5, 3
KEY = b"k" * 32
OFFER = check_offer(CHROMIUM)
UNANSWERABLE = check_offer(CHROMIUM.replace("a=rtcp-mux\r\n", ""))


def registry(here: Host, max_sessions: int = MAX_SESSIONS) -> Registry:
    made = Registry(
        SLOT,
        listen,
        here.mux,
        here.directory,
        here.block,
        here.candidates,
        max_sessions,
        here.pacer,
    )
    made.cluster_key = KEY
    return made


async def create(here: Host, made: Registry) -> LiveSession:
    session, _ = await made.create(OFFER, Request())
    here.sessions.append(session)
    return session


def figures(here: Host) -> tuple[int, int]:
    """Sessions now, and started so far, as others see them."""
    counters = TransceiverCounter.SESSIONS, TransceiverCounter.SESSIONS_STARTED
    return here.block.get(counters[0]), here.block.get(counters[1])


# ---- ids -----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
def test_an_id_names_its_slot_and_is_safe_in_a_url(node: int, slot: int) -> None:
    made = session_id(node, slot)

    assert slot_of(made) == slot
    assert made.replace("-", "a").replace("_", "a").isalnum()
    assert made != session_id(node, slot)


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.text(max_size=40), st.binary(max_size=30).map(base64.urlsafe_b64encode)))
def test_any_text_is_an_id_or_none(text: str | bytes) -> None:
    found = slot_of(text if isinstance(text, str) else text.decode())

    assert found is None or 0 <= found <= 0xFFFF


@pytest.mark.parametrize("text", ["", "x", "ä" * 27, "A" * 26, "A" * 28, "A" * 26 + "!", "=" * 27])
def test_what_is_no_id_has_no_slot(text: str) -> None:
    assert slot_of(text) is None


# ---- making --------------------------------------------------------------------------------------


def test_in_a_drain_no_session_begins_and_the_running_ones_go_on() -> None:
    async def run() -> None:
        async with host() as here:
            made = registry(here)
            session = await create(here, made)
            made.draining = True

            with pytest.raises(ServerFull):
                await create(here, made)

            assert made.full
            assert made.get(session.id) is session
            assert len(made.end_all("drained")) == 1
            await session.ended.wait()
            assert session.end_reason == "drained"

    asyncio.run(run())


def test_a_session_is_found_by_its_id_until_it_has_ended() -> None:
    async def run() -> None:
        async with host() as here:
            made = registry(here)
            session = await create(here, made)

            assert made.get(session.id) is session
            assert slot_of(session.id) == SLOT
            assert verify_ufrag(KEY, session.ufrag.encode()) == Ufrag(0, SLOT)
            assert (made.sessions, figures(here)) == (1, (1, 1))

            session.end("over")
            await session.ended.wait()
            await until(lambda: made.get(session.id) is None)
            assert figures(here) == (0, 1)

    asyncio.run(run())


def test_a_full_transceiver_refuses_until_a_call_ends() -> None:
    async def run() -> None:
        async with host() as here:
            # given as many calls as may be
            made = registry(here)
            assert here.block.get(TransceiverCounter.MAX_SESSIONS) == MAX_SESSIONS
            sessions = [await create(here, made) for _ in range(MAX_SESSIONS)]
            assert made.full

            with pytest.raises(ServerFull):
                await made.create(OFFER, Request())
            assert figures(here) == (MAX_SESSIONS, MAX_SESSIONS)

            # when one ends, there is room again
            sessions[0].end("over")
            await until(lambda: not made.full)
            await create(here, made)

    asyncio.run(run())


def test_offers_that_arrive_together_do_not_overfill() -> None:
    async def run() -> None:
        async with host() as here:
            # given a control that takes its time, and two offers too many
            made = registry(here)
            here.directory.go_on.clear()
            offers = [asyncio.ensure_future(create(here, made)) for _ in range(MAX_SESSIONS + 2)]
            await asyncio.sleep(0)

            here.directory.go_on.set()
            results = await asyncio.gather(*offers, return_exceptions=True)

            assert sum(isinstance(result, LiveSession) for result in results) == MAX_SESSIONS
            assert sum(isinstance(result, ServerFull) for result in results) == 2

    asyncio.run(run())


@pytest.mark.parametrize(
    ("error", "offer", "raised"),
    [
        (CONTROL_GONE, OFFER, DirectoryError),
        ("the route table is full", OFFER, DirectoryError),
        ("", UNANSWERABLE, NotAcceptable),
    ],
)
def test_an_offer_that_fails_leaves_nothing(
    error: str, offer: object, raised: type[Exception]
) -> None:
    async def run() -> None:
        async with host() as here:
            made = registry(here)
            here.directory.error = error
            assert made.available == (error != CONTROL_GONE)

            with pytest.raises(raised):
                await made.create(OFFER if offer is OFFER else UNANSWERABLE, Request())

            assert (made.sessions, figures(here)) == (0, (0, 0))
            assert (here.directory.routes, here.mux.by_ufrag) == ({}, {})

    asyncio.run(run())


# ---- while they live -----------------------------------------------------------------------------


def test_a_restart_makes_a_fresh_ufrag_of_ours() -> None:
    async def run() -> None:
        async with host() as here:
            made = registry(here)
            session = await create(here, made)
            before = session.ufrag

            credentials = await made.restart(session, "efgh")

            assert session.ufrag == credentials.ufrag.decode() != before
            assert verify_ufrag(KEY, credentials.ufrag) == Ufrag(0, SLOT)

    asyncio.run(run())


def test_a_path_that_control_gave_to_somebody_else_is_lost_by_its_session_only() -> None:
    async def run() -> None:
        async with host() as here:
            made = registry(here)
            first, second = await create(here, made), await create(here, made)
            client = here.client()
            client.check(first)

            for number in (second.number, 99):
                made.flow_lost(client.path, number)
            assert ice_of(first).selected == client.path

            made.flow_lost(client.path, first.number)
            assert ice_of(first).selected is None
            assert here.mux.by_path == {}

    asyncio.run(run())


def test_a_session_whose_sweep_fails_ends_and_the_others_are_swept(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept: list[str] = []

    def sweep(session: LiveSession, _now: float) -> None:
        if not swept:
            swept.append("failed")
            raise RuntimeError("a mistake of ours")
        swept.append(session.id)

    async def run() -> None:
        async with host() as here:
            made = registry(here)
            first, second = await create(here, made), await create(here, made)
            monkeypatch.setattr(LiveSession, "sweep", sweep)

            with caplog.at_level(logging.CRITICAL, "voicerelay.session"):
                made._sweep()

            assert swept == ["failed", second.id]
            assert first.end_reason == "internal error"
            assert second.state is State.CHECKING

    asyncio.run(run())


def test_all_end_together_within_a_bounded_time() -> None:
    async def stubborn(_session: Session) -> None:
        for _ in range(2):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue

    async def run() -> None:
        async with host() as here:
            # given calls, one of an agent that does not want to end
            made = registry(here)
            sessions = [await create(here, made) for _ in range(2)]
            agent = asyncio.ensure_future(stubborn(sessions[0]))
            await asyncio.sleep(0)
            sessions[0]._agent_task = agent

            # when the server stops
            async with asyncio.timeout(CLOSE_ALL_S + WAIT_S):
                await made.close_all("the server is stopping")

            # then all are closed, and every one that could has said goodbye
            assert {session.end_reason for session in sessions} == {"the server is stopping"}
            assert sessions[1].ended.is_set()
            agent.cancel()

    asyncio.run(run())


def test_closing_an_empty_registry_waits_for_nothing() -> None:
    async def run() -> None:
        async with host() as here:
            before = time.monotonic()
            await registry(here).close_all("the server is stopping")
            assert time.monotonic() - before < CLOSE_ALL_S

    asyncio.run(run())
