"""Asking the transceivers of an instance, some of which are gone or say nothing."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.unit.transceiver.test_registry import SLOT, create, registry
from tests.unit.transceiver.test_session import Host, host
from voicerelay.cli import figures as module
from voicerelay.cli.figures import TransceiverFigures
from voicerelay.shm.order import DEFAULT_DRAIN_DEADLINE_S
from voicerelay.shm.rundir import figures_socket
from voicerelay.transceiver.internal import ENDED, Internal
from voicerelay.transceiver.registry import Registry

GONE = 7


@contextlib.asynccontextmanager
async def instance() -> AsyncIterator[tuple[TransceiverFigures, Host, Registry]]:
    """A transceiver that answers, and the socket of one that was killed."""
    async with host() as here:
        made = registry(here)
        internal = Internal(made, here.block, here.pacer, "mine:app")
        with TemporaryDirectory(prefix="vr-") as folder:
            await internal.start(Path(folder))
            dead = socket.socket(socket.AF_UNIX)
            dead.bind(str(figures_socket(Path(folder), GONE)))
            dead.close()
            (Path(folder) / "figures-x.sock").touch()
            yield TransceiverFigures(Path(folder)), here, made
            await internal.stop()


def test_who_answers_is_told_and_who_is_gone_left_out() -> None:
    async def run() -> None:
        async with instance() as (asked, here, made):
            session = await create(here, made)

            assert asked.slots() == [SLOT, GONE]
            assert list(await asked.figures()) == [SLOT]
            assert [one["id"] for one in await asked.sessions()] == [session.id]

    asyncio.run(run())


def test_a_call_is_found_and_ended_by_the_end_of_its_id() -> None:
    async def run() -> None:
        async with instance() as (asked, here, made):
            session = await create(here, made)

            shown = await asked.session(session.short_id)
            ended = await asked.end(session.short_id, "a test")

            assert shown is not None
            assert shown["id"] == session.id
            assert ended == {"id": session.id, "reason": f"{ENDED}: a test"}

    asyncio.run(run())


@pytest.mark.parametrize("wanted", ["nobody", "../figures", "..", "a/b", "?x", "é"])
def test_what_is_no_call_is_none(wanted: str) -> None:
    async def run() -> None:
        async with instance() as (asked, _, _):
            assert await asked.session(wanted) is None
            assert await asked.end(wanted) is None

    asyncio.run(run())


def test_a_drain_is_ordered_and_taken_back() -> None:
    async def run() -> None:
        async with instance() as (asked, here, made):
            await create(here, made)

            drained = [await asked.drain(SLOT), await asked.drain(SLOT, 7)]
            again = await asked.undrain(SLOT)

            longest = {"slot": SLOT, "sessions": 1, "deadline_s": DEFAULT_DRAIN_DEADLINE_S}
            assert drained == [longest, longest | {"deadline_s": 7}]
            assert again == {"slot": SLOT, "sessions": 1}
            assert (await asked.drain(GONE), await asked.undrain(GONE)) == (None, None)

    asyncio.run(run())


def test_an_instance_without_transceivers_has_no_figures() -> None:
    async def run() -> None:
        asked = TransceiverFigures(Path("/nowhere"))

        assert (await asked.figures(), await asked.sessions()) == ({}, [])

    asyncio.run(run())


def test_a_transceiver_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_TIMEOUT_S", 0.05)

    async def run() -> None:
        with TemporaryDirectory(prefix="vr-") as folder, socket.socket(socket.AF_UNIX) as deaf:
            deaf.bind(str(figures_socket(Path(folder), GONE)))
            deaf.listen()

            assert await TransceiverFigures(Path(folder)).figures() == {}

    asyncio.run(run())
