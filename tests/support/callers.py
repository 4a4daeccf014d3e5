"""Several light callers at once, for system tests: set up, talk, look, take down."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import aiohttp

from tests.support.client import Call

PATIENCE_S = 10.0


@contextlib.asynccontextmanager
async def callers(url: str, count: int) -> AsyncIterator[tuple[list[Call], aiohttp.ClientSession]]:
    """`count` connected calls and an HTTP client; everything is closed at the end."""
    async with aiohttp.ClientSession() as http:
        calls = [Call(url) for _ in range(count)]
        try:
            for call in calls:
                await call.connect(http)
            yield calls, http
        finally:
            for call in calls:
                await call.close()


async def talk_all(calls: Sequence[Call], seconds: float) -> None:
    """Everybody talks at the same time."""
    await asyncio.gather(*(call.talk(seconds) for call in calls))


async def heard_all(call: Call, since: int, patience_s: float = PATIENCE_S) -> bool:
    """Whether everything sent from number `since` on has come back; waits for the last of it."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_s
    while loop.time() < deadline:
        if set(range(since, call.sent)) <= set(call.numbers()):
            return True
        await asyncio.sleep(0.02)
    return False


async def still_there(call: Call, packets: int = 25) -> bool:
    """Whether a call goes on: most of what it says now comes back."""
    since = call.sent
    await call.talk(packets * 0.02)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_S
    while loop.time() < deadline:
        heard = [number for number in call.numbers() if number >= since]
        if len(heard) >= packets * 0.8:
            return True
        await asyncio.sleep(0.02)
    return False


async def nothing_was_lost(calls: Sequence[Call]) -> bool:
    """Whether everything that was said came back, once and in order."""
    await asyncio.gather(*(heard_all(call, 0) for call in calls))
    return all(call.numbers() == list(range(call.sent)) for call in calls)


async def calls_work(url: str, count: int = 4) -> None:
    """New calls are heard, each packet of them."""
    async with callers(url, count) as (calls, _):
        await talk_all(calls, 0.5)
        assert await nothing_was_lost(calls)
