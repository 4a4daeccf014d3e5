"""The hand-over to a reading task: in order, bounded, counted, and it ends."""

import asyncio

import pytest

from voicerelay.transceiver.voice.unread import Unread

LIMIT = 3


def filled(*items: int, keep_oldest: bool = False) -> Unread[int]:
    unread: Unread[int] = Unread(LIMIT, keep_oldest)
    for item in items:
        unread.put(item)
    return unread


async def rest(unread: Unread[int]) -> list[int]:
    return [item async for item in unread]


def test_what_was_put_comes_in_order_and_ends_with_close() -> None:
    unread = filled(1, 2)

    unread.close()

    assert asyncio.run(rest(unread)) == [1, 2]


def test_of_too_much_the_oldest_gives_way_and_is_counted() -> None:
    unread = filled(*range(1000))

    assert (len(unread), unread.dropped) == (LIMIT, 1000 - LIMIT)
    unread.close()
    assert asyncio.run(rest(unread)) == [997, 998, 999]


def test_or_the_newest_where_the_beginning_matters() -> None:
    unread = filled(*range(1000), keep_oldest=True)

    assert (len(unread), unread.dropped) == (LIMIT, 1000 - LIMIT)
    assert unread.waiting() == (0, 1, 2)


def test_a_waiting_reader_is_woken_by_the_first_item_and_by_the_end() -> None:
    async def run() -> None:
        unread = filled()
        reading = asyncio.create_task(rest(unread))
        await asyncio.sleep(0)

        unread.put(1)
        await asyncio.sleep(0)
        unread.put(2)
        unread.close()

        assert await reading == [1, 2]

    asyncio.run(run())


def test_nothing_can_be_put_after_the_end() -> None:
    unread = filled(1)
    unread.close()

    unread.put(2)

    assert asyncio.run(rest(unread)) == [1]
    assert unread.dropped == 0


def test_what_is_discarded_is_counted_and_not_read() -> None:
    unread = filled(1, 2)

    unread.discard()

    assert asyncio.run(rest(unread)) == []
    assert unread.dropped == 2


def test_of_two_readers_each_item_goes_to_one_and_both_end() -> None:
    async def run() -> None:
        unread = filled()
        readers = [asyncio.create_task(rest(unread)) for _ in range(2)]
        await asyncio.sleep(0)

        for item in range(4):
            unread.put(item)
            await asyncio.sleep(0)
        unread.close()

        first, second = await asyncio.gather(*readers)
        assert sorted(first + second) == [0, 1, 2, 3]

    asyncio.run(run())


def test_a_reader_that_is_cancelled_leaves_the_other_alone() -> None:
    async def run() -> None:
        # given two readers that wait for the same
        unread = filled()
        first, second = (asyncio.create_task(rest(unread)) for _ in range(2))
        await asyncio.sleep(0)

        # when one gives up
        first.cancel()
        await asyncio.wait([first])
        unread.put(1)
        unread.close()

        # then the other one reads on
        assert await second == [1]

    asyncio.run(run())


def test_a_reader_that_often_gives_up_leaves_nothing_behind() -> None:
    async def run() -> None:
        unread = filled()
        for _ in range(100):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(unread), 0)
            waiting = asyncio.ensure_future(anext(unread))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])

        assert not unread._waiters

    asyncio.run(run())
