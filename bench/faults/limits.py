"""Something runs full: a transceiver's queue, the tables, file descriptors, memory."""

import asyncio
import contextlib
import os
import random
import resource
import signal
import time
from collections.abc import AsyncIterator

import aiohttp
import psutil

from bench.faults.verdict import Check, at_least, at_most, exactly
from bench.faults.world import GAP_UNHARMED_MS, World, owner_of, talking
from tests.support.lean import Caller, LeanCall, LeanCallFailed
from tests.support.server import Server
from voicerelay.transceiver.headroom import LOOK_S, MIN_DESCRIPTORS, MIN_MEMORY_BYTES

STOPPED_S = 3.0  # below what a transceiver may hang before it is replaced
FLOOD_PER_S = 20_000
FLOOD_SLICE_S = 0.01
NOISE = b"\x80\x6f" + b"\xff" * 170  # like SRTP, but nobody's
CALLS_UNTIL_BOTH = 30
ASKED = 8  # new calls while something is full
REFUSED_WITHIN_S = 5.0
TABLE_CAPACITY = 16  # sessions; the smallest table


async def full_queue(running: Server, count: int, chance: random.Random) -> list[Check]:
    """One transceiver reads nothing while 20,000 packets/s come for it."""
    async with talking(running, count) as world:
        slot = chance.randrange(2)
        others = set(range(count)) - world.of(slot)
        loud = await _call_at(world, slot)
        pid, before = world.pid(f"transceiver {slot}"), _dropped(world)
        world.hit()
        os.kill(pid, signal.SIGSTOP)
        try:
            await _flood(loud)
        finally:
            os.kill(pid, signal.SIGCONT)
        await world.go_on(STOPPED_S + 3.0)
        loud.close()
        return [
            exactly("packets missing at others", world.missing(others), 0),
            at_most("gap max at others", world.gaps_ms(others)[-1], GAP_UNHARMED_MS, "ms"),
            at_least("packets dropped and counted", _dropped(world) - before, 1),
            exactly("calls ended", len(world.ended()), 0),
        ]


async def _call_at(world: World, slot: int) -> LeanCall:
    """A call that is a transceiver's: the emptier one takes it, so the first or the second is."""
    caller = Caller(world.running.http_url)
    for _ in range(CALLS_UNTIL_BOTH):
        call = LeanCall(caller)
        await call.connect(world.http)
        if await owner_of(world.running, world.http, call.resource) == slot:
            return call
    raise LeanCallFailed(f"no call came to transceiver {slot}")


def _dropped(world: World) -> int:
    """Packets that relays and the kernel dropped, by the shared counters."""
    status = world.status()
    relays = sum(
        relay["socket_overflows"] + sum(relay["dropped"].values()) for relay in status["relays"]
    )
    return int(relays + sum(t["socket_overflows"] for t in status["transceivers"]))


async def _flood(loud: LeanCall) -> None:
    """From a call's own address, far more than its transceiver can queue."""
    ends, burst = time.monotonic() + STOPPED_S, int(FLOOD_PER_S * FLOOD_SLICE_S)
    while time.monotonic() < ends:
        due = time.monotonic() + FLOOD_SLICE_S
        for _ in range(burst):
            loud.throw(NOISE)
        await asyncio.sleep(max(due - time.monotonic(), 0))


async def full_table(running: Server, count: int, chance: random.Random) -> list[Check]:
    """The tables hold TABLE_CAPACITY sessions; `count` talk, then more are asked for than there is room."""
    count = min(count, TABLE_CAPACITY // 2)
    async with talking(running, count) as world, aiohttp.ClientSession() as http:
        world.hit()
        more, statuses = await _ask(running, http, TABLE_CAPACITY)
        await world.go_on()
        for call in more:
            await call.hang_up(http)
        after, _ = await _ask(running, http, 1)
        for call in after:
            await call.hang_up(http)
        return [
            at_least("new calls refused with 503", statuses.count(503), 1),
            exactly("refused in another way", len(statuses) - statuses.count(503), 0),
            exactly("packets missing", world.missing(), 0),
            exactly("calls ended", len(world.ended()), 0),
            exactly("new calls when there is room again", len(after), 1),
        ]


async def no_descriptors(running: Server, count: int, chance: random.Random) -> list[Check]:
    """Transceivers may open a few more files only."""
    left = MIN_DESCRIPTORS // 2
    return await _without(running, count, resource.RLIMIT_NOFILE, lambda p: p.num_fds() + left)


async def no_memory(running: Server, count: int, chance: random.Random) -> list[Check]:
    """Transceivers get a little more address space only."""
    left = MIN_MEMORY_BYTES // 2
    return await _without(running, count, resource.RLIMIT_AS, lambda p: p.memory_info().vms + left)


async def _without(running: Server, count: int, what: int, bound: object) -> list[Check]:
    async with talking(running, count) as world, aiohttp.ClientSession() as http:
        pids = [world.pid(f"transceiver {slot}") for slot in range(2)]
        world.hit()
        async with _limited(pids, what, bound):
            await asyncio.sleep(2 * LOOK_S)
            began = time.monotonic()
            more, statuses = await _ask(running, http, ASKED)
            each_ms = (time.monotonic() - began) * 1000 / ASKED
            await world.go_on()
        for call in more:
            with contextlib.suppress(LeanCallFailed, aiohttp.ClientError):
                await call.hang_up(http)
        again_ms = await _again_ms(running)
        return [
            exactly(f"of {ASKED} new calls refused with 503", statuses.count(503), ASKED),
            at_most("a refusal takes, on average", each_ms, 1000, "ms"),
            exactly("packets missing", world.missing(), 0),
            exactly("calls ended", len(world.ended()), 0),
            at_most("calls again after the limit is gone", again_ms, 2000, "ms"),
        ]


@contextlib.asynccontextmanager
async def _limited(pids: list[int], what: int, bound: object) -> AsyncIterator[None]:
    before = {}
    assert callable(bound)
    try:
        for pid in pids:
            process = psutil.Process(pid)
            before[pid] = process.rlimit(what)
            process.rlimit(what, (int(bound(process)), before[pid][1]))
        yield
    finally:
        for pid, limits in before.items():
            psutil.Process(pid).rlimit(what, limits)


async def _ask(
    running: Server, http: aiohttp.ClientSession, count: int
) -> tuple[list[LeanCall], list[int]]:
    """The calls that came about, and the status of each that did not (-1: no answer in time, 0: closed)."""
    caller, taken, refused = Caller(running.http_url), [], []
    for _ in range(count):
        call = LeanCall(caller)
        try:
            async with asyncio.timeout(REFUSED_WITHIN_S):
                await call.connect(http)
            taken.append(call)
        except LeanCallFailed as exc:
            refused.append(exc.status)
            call.close()
        except aiohttp.ClientError:
            refused.append(0)
            call.close()
        except TimeoutError:
            refused.append(-1)
            call.close()
    return taken, refused


async def _again_ms(running: Server) -> float:
    began = time.monotonic()
    while time.monotonic() - began < REFUSED_WITHIN_S:
        async with aiohttp.ClientSession() as http:
            taken, _ = await _ask(running, http, 1)
            for call in taken:
                await call.hang_up(http)
                return (time.monotonic() - began) * 1000
    return float("inf")
