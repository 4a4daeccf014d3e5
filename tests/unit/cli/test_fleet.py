"""The processes of an instance as they are kept: which slots, who retires, how many calls are left."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from voicerelay.cli.child import Kept
from voicerelay.cli.config import Config
from voicerelay.cli.errors import UserError
from voicerelay.cli.fleet import Fleet
from voicerelay.cli.place import Place
from voicerelay.shm import rundir
from voicerelay.shm.counters import MAX_TRANSCEIVERS, TransceiverCounter
from voicerelay.shm.region import MIN_CAPACITY, Region, Sizes

Scenario = Callable[[Fleet], Coroutine[Any, Any, None]]


@pytest.fixture
def region(config: Config) -> Region:
    return Region.create(
        rundir.region_name(config.run_dir), bytes(16), Sizes.for_capacity(MIN_CAPACITY)
    )


def with_fleet(config: Config, scenario: Scenario, region: Region | None = None) -> None:
    """A fleet of which no process has started, with transceivers at slots 0 to 2."""

    async def run() -> None:
        fleet = Fleet(config, Place(config))
        fleet._region = region
        for slot in range(3):
            fleet._post(slot, config, draining=False)
        await scenario(fleet)

    asyncio.run(run())


def test_without_steering_every_slot_may_be_used(config: Config) -> None:
    async def scenario(fleet: Fleet) -> None:
        assert fleet.slots == MAX_TRANSCEIVERS

    with_fleet(config, scenario)


def test_who_is_not_named_is_everybody_that_stays(config: Config) -> None:
    async def scenario(fleet: Fleet) -> None:
        fleet.posts[1].child._stopping = True

        assert fleet.chosen([]) == [0, 2]
        assert fleet.chosen([1]) == [1]  # to hasten it
        assert (fleet.staying, fleet.retiring) == ([0, 2], [1])

    with_fleet(config, scenario)


def test_a_slot_that_nobody_has_is_refused(config: Config) -> None:
    async def scenario(fleet: Fleet) -> None:
        with pytest.raises(UserError, match="there is no transceiver 7"):
            fleet.chosen([0, 7])

    with_fleet(config, scenario)


def test_who_retires_is_not_opened_again(config: Config) -> None:
    async def scenario(fleet: Fleet) -> None:
        fleet.posts[1].child._stopping = True

        with pytest.raises(UserError, match="transceiver 1 retires"):
            fleet.open([1])

    with_fleet(config, scenario)


def test_who_does_not_run_has_retired_at_once(config: Config) -> None:
    async def scenario(fleet: Fleet) -> None:
        fleet.retire([0, 2], 60)

        await fleet.gone([0, 2])

        assert fleet.staying == [1]
        assert fleet.retiring == []

    with_fleet(config, scenario)


def test_calls_are_counted_where_it_drains(config: Config, region: Region) -> None:
    async def scenario(fleet: Fleet) -> None:
        # given three transceivers with calls: one drains, one is told to and has not yet, one serves
        for slot, sessions in ((0, 4), (1, 3), (2, 2)):
            block = region.counters.transceiver(slot)
            block.claim()
            block.set(TransceiverCounter.SESSIONS, sessions)
        region.counters.transceiver(0).set(TransceiverCounter.DRAINING, 1)
        fleet.drain([0, 1], 60)

        assert fleet.calls_of([0, 1, 2]) == 4 + 1

        region.counters.transceiver(0).clear()  # it died, and its calls with it
        region.counters.transceiver(1).set(TransceiverCounter.DRAINING, 1)
        assert fleet.calls_of([0, 1, 2]) == 3

    with_fleet(config, scenario, region)


def test_stragglers_are_remembered_after_their_transceiver(config: Config, region: Region) -> None:
    async def scenario(fleet: Fleet) -> None:
        region.counters.transceiver(1).set(TransceiverCounter.STRAGGLERS_ENDED, 5)
        fleet.posts[1].child._stopping = True

        fleet._ended(fleet.posts[1].child, 0)

        assert fleet.stragglers == 5
        assert 1 not in fleet.posts

    with_fleet(config, scenario, region)


def test_what_runs_is_kept_for_the_next_supervisor(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(fleet: Fleet) -> None:
        # given transceivers of which one retires, one waits to be started again, one drains
        kept = Kept("transceiver 0", 100, 7, ready=True, stopping=True)
        monkeypatch.setattr(fleet.posts[0].child, "keep", lambda: kept)
        fleet.posts[0].child._stopping = True
        fleet.posts[2].draining = True

        assert fleet.keep() == ([kept], [(0, False), (1, False), (2, True)])

    with_fleet(config, scenario)
