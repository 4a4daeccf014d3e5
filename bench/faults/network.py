"""The network is bad, narrow or changes under a call; the wall clock jumps."""

import asyncio
import contextlib
import math
import mmap
import random
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import aiohttp

from bench.faults.verdict import Check, at_least, at_most, exactly
from bench.faults.world import GAP_UNHARMED_MS, World, owner_of, talking
from tests.support.client import Call
from tests.support.impair import Impairment
from tests.support.proxy import proxy
from tests.support.server import Server, server

CHECK_INTERVAL_S = 6.0  # aioice checks every 4 to 6 s
NARROW_BYTES = 1200  # UDP payload
HOUR_S = 3600
CONNECT_S = 5.0
PATIENCE_S = 12.0
Run = Callable[[Server, int, random.Random], Coroutine[Any, Any, list[Check]]]


def impaired(how: Impairment) -> Run:
    """Both ways, from the first check on. The callers repeat their own DTLS flights after 1, 2, 4 s."""

    async def run(running: Server, count: int, chance: random.Random) -> list[Check]:
        address = ("127.0.0.1", running.port)
        async with (
            proxy(address, seed=chance.randrange(1 << 30)) as between,
            aiohttp.ClientSession() as http,
        ):
            between.impair(to_server=how, to_client=how)
            calls = [Call(running.http_url, timeout_s=PATIENCE_S) for _ in range(count)]
            try:
                took_s = await asyncio.gather(
                    *(_connect_s(call, http, between.rewrite) for call in calls)
                )
                talking = [call for call in calls if call.connected]
                await asyncio.gather(*(call.talk(4.0) for call in talking))
                await asyncio.sleep(how.delay_s * 2 + how.jitter_s + 0.5)
                arrived = between.to_server.voice - between.to_server.voice_lost
                came_back = between.to_client.voice - between.to_client.duplicated
                twice = sum(len(c.received) - len(set(c.numbers())) for c in talking)
                spoilt = between.to_server.spoilt + between.to_client.spoilt
                ended = sum(not call.connected for call in talking)
            finally:
                for call in calls:
                    await call.close()
        return [
            at_most(
                "nine calls of ten connected",
                sorted(took_s)[len(calls) * 9 // 10 - 1],
                CONNECT_S,
                "s",
            ),
            exactly("calls ended", ended, 0),
            at_least(
                "returned of what arrived", 100 * came_back / max(arrived, 1), _share(how), "%"
            ),
            exactly("played twice", twice if not how.duplicate else 0, 0),
            at_least("packets spoilt meanwhile", spoilt, 1 if how.corrupt else 0),
        ]

    return run


def _share(how: Impairment) -> float:
    """Of what arrived; what is spoilt or so late that it has been concealed cannot come back."""
    return 99.0 - 100 * (how.corrupt + how.reorder)


async def _connect_s(
    call: Call, http: aiohttp.ClientSession, mangle: Callable[[str], str]
) -> float:
    """Inf for a caller that gave up."""
    began = time.monotonic()
    try:
        await call.connect(http, mangle_answer=mangle)
    except TimeoutError:
        return math.inf
    return time.monotonic() - began


async def narrow(running: Server, count: int, chance: random.Random) -> list[Check]:
    """Datagrams above NARROW_BYTES never arrive."""
    address = ("127.0.0.1", running.port)
    async with proxy(address) as between:
        how = Impairment(delay_s=0.0, max_bytes=NARROW_BYTES)
        between.impair(to_server=how, to_client=how)
        async with talking(running, count, between.rewrite) as world:
            world.hit()
            await world.go_on(1.0)
            return [
                exactly("calls connected and heard", count - len(world.ended()), count),
                at_most("largest datagram from us", between.to_client.largest, NARROW_BYTES, "B"),
            ]


async def rebound(running: Server, count: int, chance: random.Random) -> list[Check]:
    """The NAT gives every caller another port in mid-sentence."""
    async with (
        proxy(("127.0.0.1", running.port)) as between,
        talking(running, count, between.rewrite) as world,
    ):
        world.hit()
        between.rebind()
        await world.go_on(CHECK_INTERVAL_S + 2.0)
        most = CHECK_INTERVAL_S * 1000 + 100
        return [
            exactly("calls ended", len(world.ended()), 0),
            at_most("both directions audible again", world.gaps_ms()[-1], most, "ms"),
        ]


async def clock_steps(_: Server, count: int, chance: random.Random) -> list[Check]:
    """An hour forward, then two back; calls, tables and new calls do not notice."""
    with _stepped_server() as (running, step):
        async with talking(running, count) as world:
            world.hit()
            for offset in (HOUR_S, -HOUR_S):
                step(offset)
                await asyncio.sleep(1.5)
                assert await _new_call_is_taken(running, world)
            await world.go_on()
            return [
                exactly("calls ended", len(world.ended()), 0),
                exactly("packets missing", world.missing(), 0),
                at_most("gap max", world.gaps_ms()[-1], GAP_UNHARMED_MS, "ms"),
            ]


async def _new_call_is_taken(running: Server, world: World) -> bool:
    call = Call(running.http_url)
    try:
        await call.connect(world.http)
        return await owner_of(running, world.http, call.resource) >= 0
    finally:
        await call.close()


@contextlib.contextmanager
def _stepped_server() -> Iterator[tuple[Server, Callable[[int], None]]]:
    """A server whose wall clock is ours to move."""
    folder = Path(tempfile.mkdtemp(prefix="voicerelay-clock-"))
    try:
        library, file = folder / "clock.so", folder / "offset"
        source = Path(__file__).with_name("clock.c")
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
        file.write_bytes(bytes(8))
        with file.open("r+b") as handle, mmap.mmap(handle.fileno(), 8) as shared:

            def step(seconds: int) -> None:
                shared[:] = struct.pack("q", seconds)

            with server(env={"LD_PRELOAD": str(library), "FAULTS_CLOCK": str(file)}) as running:
                yield running, step
    finally:
        shutil.rmtree(folder)
