"""Live calls on a real server, and what each caller hears before, during and after a fault."""

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.support.client import Call
from tests.support.server import Server
from voicerelay.cli.status import read_status

BEFORE_S, AFTER_S = 2.0, 4.0
SETTLE_S = 0.3  # the first packets after the last handshake are no measure
LOOK_S = 0.02
LAG_LOOK_S = 0.005
PATIENCE_S = 15.0
GAP_UNHARMED_MS = 60.0  # two lost frames at most, or the callers' own lag
STILL_S = 0.5  # who heard something so shortly before the end is still there
ECHO_S = 0.3  # what was said so long ago has come back or is lost


def processes(status: dict[str, Any]) -> dict[str, int]:
    """Name -> pid of every process that may be hit."""
    found = {f"relay {p['index']}": p["pid"] for p in status["relays"]}
    found |= {f"transceiver {p['slot']}": p["pid"] for p in status["transceivers"]}
    if status["control"]:
        found["control"] = status["control"]["pid"]
    return found


@dataclass
class World:
    """`calls` talk all the time; `owners[i]` is the slot of the transceiver that has call i."""

    running: Server
    http: aiohttp.ClientSession
    calls: list[Call] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)
    began_at: float = 0.0
    hit_at: float = 0.0
    said_at_hit: list[int] = field(default_factory=list)

    def status(self) -> dict[str, Any]:
        return read_status(self.running.run_dir)

    def pid(self, name: str) -> int:
        return processes(self.status())[name]

    def of(self, slot: int) -> set[int]:
        """The calls of a transceiver."""
        return {index for index, owner in enumerate(self.owners) if owner == slot}

    def hit(self) -> float:
        """From now on it counts as after the fault."""
        self.said_at_hit = [call.sent for call in self.calls]
        self.hit_at = time.monotonic()
        return self.hit_at

    async def ms_until(self, condition: Callable[[], object]) -> float:
        """Milliseconds from the hit until a condition is true, looked at every LOOK_S; inf for never."""
        while time.monotonic() - self.hit_at < PATIENCE_S:
            if await asyncio.to_thread(condition):
                return (time.monotonic() - self.hit_at) * 1000
            await asyncio.sleep(LOOK_S)
        return float("inf")

    async def go_on(self, seconds: float = AFTER_S) -> None:
        """Until so long after the hit."""
        await asyncio.sleep(max(self.hit_at + seconds - time.monotonic(), 0.0))

    def ended(self) -> set[int]:
        """The calls that hear nothing any more."""
        since = time.monotonic() - STILL_S
        return {
            index
            for index, call in enumerate(self.calls)
            if not (call.connected and call.received and call.received[-1].at > since)
        }

    def gaps_ms(self, which: Iterable[int] | None = None) -> list[float]:
        """The longest time without a packet from the server since the hit, of each call; sorted."""
        kept = range(len(self.calls)) if which is None else which
        since, until = self.hit_at - 0.1, time.monotonic()
        return sorted(self.calls[i].longest_gap_s(since, until) * 1000 for i in kept)

    def missing(self, which: Iterable[int] | None = None) -> int:
        """Packets said since shortly before the hit that have not come back, though time enough has passed."""
        kept = range(len(self.calls)) if which is None else which
        patience = round(ECHO_S / 0.02)
        lost = 0
        for index in kept:
            call = self.calls[index]
            said = range(max(self.said_at_hit[index] - 5, 0), call.sent - patience)
            lost += len(set(said) - set(call.numbers()))
        return lost

    def twice(self) -> int:
        """Packets that came back more than once."""
        return sum(len(call.received) - len(set(call.numbers())) for call in self.calls)


@contextlib.asynccontextmanager
async def talking(
    running: Server, count: int, mangle_answer: Callable[[str], str] = str
) -> AsyncIterator[World]:
    """`count` connected calls that talk until the end; begins BEFORE_S after they do."""
    async with aiohttp.ClientSession() as http:
        world = World(running, http, [Call(running.http_url) for _ in range(count)])
        tasks: list[asyncio.Future[None]] = []
        try:
            for call in world.calls:
                await call.connect(http, mangle_answer=mangle_answer)
                world.owners.append(await owner_of(running, http, call.resource))
            gc.collect()
            gc.disable()  # a collection stops every caller at once
            world.began_at = time.monotonic()
            tasks = [asyncio.ensure_future(_talk_on(call)) for call in world.calls]
            tasks.append(asyncio.ensure_future(_watch_lag(world.late_ms)))
            await asyncio.sleep(BEFORE_S)
            yield world
        finally:
            gc.enable()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for call in world.calls:
                await call.close()


async def owner_of(running: Server, http: aiohttp.ClientSession, resource: str) -> int:
    """The slot of the transceiver that has a call."""
    url = running.http_url + resource.replace("/whip/", "/sessions/")
    async with http.get(url) as response:
        slot: int = (await response.json())["transceiver"]
        return slot


async def _talk_on(call: Call) -> None:
    while True:
        await call.talk(1.0)


async def _watch_lag(late_ms: list[float]) -> None:
    """How late the callers' own loop is: a gap below that says nothing about the server."""
    while True:
        due = time.monotonic() + LAG_LOOK_S
        await asyncio.sleep(LAG_LOOK_S)
        late_ms.append((time.monotonic() - due) * 1000)
