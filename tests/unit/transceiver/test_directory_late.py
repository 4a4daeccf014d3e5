"""A control that answers too late: what it granted is given back, unless it was asked for again."""

import asyncio

import pytest

from tests.unit.transceiver.test_directory import WAIT_S, host, path, ufrag, until
from voicerelay.shm import protocol
from voicerelay.transceiver import directory as module
from voicerelay.transceiver.directory import CONTROL_GONE, DirectoryError


def test_a_silent_control_counts_as_gone_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.REQUEST_TIMEOUT_S < 1.0  # FAULTS: a new offer fails fast
    monkeypatch.setattr(module, "REQUEST_TIMEOUT_S", 0.02)

    async def run() -> None:
        async with host() as here:
            here.control.answer = None

            with pytest.raises(DirectoryError, match=CONTROL_GONE):
                await here.directory.register(ufrag(1), 9)

            assert not here.directory._pending

    asyncio.run(run())


def test_a_route_that_is_granted_too_late_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUEST_TIMEOUT_S", 0.02)

    async def run() -> None:
        async with host() as here:
            # given a request that was given up
            here.control.answer = None
            with pytest.raises(DirectoryError):
                await here.directory.register(ufrag(1), 9)
            (request,) = here.control.of(protocol.RegisterRoute)
            assert isinstance(request, protocol.RegisterRoute)

            # when control, busy for a moment, has written the route after all
            here.control.answer = ""
            here.control.tell(protocol.Done(request.request, ""))
            await here.commit(1, 1)  # a round trip: anything sent before it has arrived

            # then it is told to forget it, else the record is lost for ever
            assert here.control.of(protocol.UnregisterRoute) == [protocol.UnregisterRoute(ufrag(1))]

    asyncio.run(run())


def test_a_flow_that_was_asked_for_again_is_not_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client repeats its check while control stands still: the late grant of the first is the second's."""
    monkeypatch.setattr(module, "REQUEST_TIMEOUT_S", 0.02)

    async def run() -> None:
        async with host() as here:
            # given a commit that was given up, and the same one asked for again
            here.control.answer = None
            assert await here.commit(1, 9) == CONTROL_GONE
            monkeypatch.setattr(module, "REQUEST_TIMEOUT_S", WAIT_S)
            here.directory.commit(path(1), 9, here.errors.append)
            await until(lambda: len(here.control.of(protocol.CommitFlow)) == 2)

            # when control goes on, and answers both in order
            for request in here.control.of(protocol.CommitFlow):
                assert isinstance(request, protocol.CommitFlow)
                here.control.tell(protocol.Done(request.request, ""))
            await until(lambda: len(here.errors) == 2)
            here.control.answer = ""
            assert await here.commit(2, 9) == ""  # a round trip: what was sent has arrived

            # then the flow stands in the table, as we believe it does
            assert path(1) in here.directory.flows
            assert here.control.of(protocol.ReleaseFlow) == []

    asyncio.run(run())
