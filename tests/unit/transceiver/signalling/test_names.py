"""Names of calls, and places of callers, in a route table that several transceivers share."""

import asyncio

import pytest

from tests.unit.transceiver.test_session import FakeDirectory
from voicerelay.transceiver.directory import CONTROL_GONE, DirectoryError
from voicerelay.transceiver.signalling.names import CapReached, Names
from voicerelay.transceiver.signalling.owners import owner_key


def two() -> tuple[tuple[Names, FakeDirectory], tuple[Names, FakeDirectory]]:
    table: dict[bytes, int] = {}
    made = []
    for slot in (1, 2):
        directory = FakeDirectory()
        directory.share(table, slot)
        made.append((Names(directory, directory), directory))
    return made[0], made[1]


def test_a_claimed_name_is_found_until_it_is_given_up() -> None:
    async def run() -> None:
        (ours, directory), (theirs, _) = two()

        key = await ours.claim("pc-1")

        assert key == owner_key("pc-1")
        assert (ours.owner("pc-1"), theirs.owner("pc-1")) == (1, 1)
        ours.give_up(key)
        assert (theirs.owner("pc-1"), directory.routes) == (None, {})

    asyncio.run(run())


def test_a_name_that_a_sibling_has_cannot_be_claimed() -> None:
    async def run() -> None:
        (ours, _), (theirs, _) = two()
        await ours.claim("pc-1")

        for names in (ours, theirs):
            with pytest.raises(DirectoryError):
                await names.claim("pc-1")

        theirs.give_up(owner_key("pc-1"))
        assert theirs.owner("pc-1") == 1

    asyncio.run(run())


def test_a_cap_counts_over_all_transceivers() -> None:
    async def run() -> None:
        # given a caller who has all its places, some here, some there
        (ours, _), (theirs, _) = two()
        places = [await names.place("web", 4) for names in (ours, theirs, ours, theirs)]

        # then there is no fifth, here or there, and another caller has its own
        for names in (ours, theirs):
            with pytest.raises(CapReached):
                await names.place("web", 4)
            await names.place("phones", 4)

        # and a place that is given up is there again
        theirs.give_up(places[1])
        await ours.place("web", 4)

    asyncio.run(run())


def test_two_at_once_never_share_a_place() -> None:
    async def run() -> None:
        (ours, directory), _ = two()
        directory.go_on.clear()
        asked = [asyncio.create_task(ours.place("web", 2)) for _ in range(3)]
        await asyncio.sleep(0)
        directory.go_on.set()

        found = await asyncio.gather(*asked, return_exceptions=True)

        assert len({place for place in found if isinstance(place, bytes)}) == 2
        assert sum(isinstance(place, CapReached) for place in found) == 1

    asyncio.run(run())


def test_without_control_no_place_is_taken() -> None:
    async def run() -> None:
        (ours, directory), _ = two()
        directory.error = CONTROL_GONE
        with pytest.raises(DirectoryError):
            await ours.place("web", 1)

        directory.error = ""
        assert await ours.place("web", 1)

    asyncio.run(run())
