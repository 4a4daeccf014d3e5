"""Processes are killed or stopped: relays, control, a transceiver, everything."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from bench.faults.verdict import Check, at_most, exactly
from bench.faults.world import PATIENCE_S, World, processes, talking
from tests.support.client import Call, CallRefused
from tests.support.lean import Caller, LeanCall
from tests.support.server import Server
from voicerelay.cli.fleet import CONTROL_HUNG_LOOKS, CONTROL_LOOK_S
from voicerelay.shm import rundir

HUNG_MS = CONTROL_LOOK_S * CONTROL_HUNG_LOOKS * 1000


def _p99(gaps: list[float]) -> float:
    return gaps[min(len(gaps) - 1, int(len(gaps) * 0.99))]


def _is_back(world: World, name: str, old: int) -> Callable[[], bool]:
    return lambda: processes(world.status()).get(name, old) != old


def relay(
    number: signal.Signals,
) -> Callable[[Server, int, random.Random], Coroutine[Any, Any, list[Check]]]:
    async def run(running: Server, count: int, chance: random.Random) -> list[Check]:
        async with talking(running, count) as world:
            name = f"relay {chance.randrange(2)}"
            pid = world.pid(name)
            world.hit()
            os.kill(pid, number)
            back = await world.ms_until(_is_back(world, name, pid))
            await world.go_on()
            gaps, killed = world.gaps_ms(), number == signal.SIGKILL
            return [
                exactly("calls ended", len(world.ended()), 0),
                at_most("gap p99", _p99(gaps), 60 if killed else 700, "ms"),
                at_most("gap max", gaps[-1], 100 if killed else 700, "ms"),
                at_most("relay replaced", back, 2000 if killed else 500, "ms"),
            ]

    return run


def control(
    number: signal.Signals,
) -> Callable[[Server, int, random.Random], Coroutine[Any, Any, list[Check]]]:
    async def run(running: Server, count: int, chance: random.Random) -> list[Check]:
        async with talking(running, count) as world:
            pid = world.pid("control")
            peers = world.status()["control"]["peers"]
            world.hit()
            os.kill(pid, number)
            refused_ms = await _offer_ms(world)

            def whole() -> bool:
                control = world.status()["control"]
                return bool(control and control["pid"] != pid and control["peers"] == peers)

            whole_ms = await world.ms_until(whole)
            await world.go_on()
            # that it hangs must be seen first
            hung_ms = 0 if number == signal.SIGKILL else HUNG_MS
            return [
                exactly("calls ended", len(world.ended()), 0),
                exactly("packets missing", world.missing(), 0),
                at_most("a new offer is answered or refused", refused_ms, 1000 + hung_ms, "ms"),
                at_most("control whole again", whole_ms, 2000 + hung_ms, "ms"),
            ]

    return run


async def _offer_ms(world: World) -> float:
    """How long a new offer takes to fail, or to be answered if control is back so soon."""
    call = Call(world.running.http_url)
    began = time.monotonic()
    with contextlib.suppress(CallRefused):
        await call.connect(world.http)
    took = (time.monotonic() - began) * 1000
    await call.close()
    return took


async def transceiver(running: Server, count: int, chance: random.Random) -> list[Check]:
    async with talking(running, count) as world:
        slot = chance.randrange(2)
        name, doomed = f"transceiver {slot}", world.of(slot)
        kept = set(range(count)) - doomed
        pid = world.pid(name)
        lean = Caller(running.http_url)
        world.hit()
        os.kill(pid, signal.SIGKILL)
        new = LeanCall(lean)
        new_ms = await _connect_ms(new, world.http)
        void_ms = await world.ms_until(lambda: world.status()["routes"] <= len(kept) + 1)
        back = await world.ms_until(_is_back(world, name, pid))
        await world.go_on()
        await new.hang_up(world.http)
        heard = sum(p.at > world.hit_at + 0.1 for i in doomed for p in world.calls[i].received)
        return [
            exactly("calls ended besides its own", len(world.ended() - doomed), 0),
            exactly("of its own still heard", len(doomed - world.ended()), 0),
            exactly("packets missing at others", world.missing(kept), 0),
            exactly("packets of old calls from the successor", heard, 0),
            at_most("a new call connects elsewhere", new_ms, 200, "ms"),
            at_most("routes void", void_ms, 1000, "ms"),
            at_most("transceiver replaced", back, 5000, "ms"),
        ]


async def _connect_ms(call: LeanCall, http: aiohttp.ClientSession) -> float:
    """Whoever's accept queue died with its process is tried again, as a client would."""
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE_S:
        try:
            await call.connect(http)
        except aiohttp.ClientError:
            continue
        return (time.monotonic() - began) * 1000
    return float("inf")


async def everything(running: Server, count: int, chance: random.Random) -> list[Check]:
    """The whole instance dies at once; the same command starts on what it left behind."""
    async with talking(running, count) as world:
        supervisor = psutil.Process(running.pid)
        family = [supervisor, *supervisor.children(recursive=True)]
        command, region = supervisor.cmdline(), _segments(running)
        for process in family:
            process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(psutil.wait_procs, family, PATIENCE_S)
        began = time.monotonic()
        again = await asyncio.create_subprocess_exec(
            *command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        )
        try:
            call = LeanCall(Caller(running.http_url))
            await _first_call(call, world.http)
            first_ms = (time.monotonic() - began) * 1000
            await call.hang_up(world.http)
            now = _segments(running)
        finally:
            again.terminate()
            await again.wait()
        return [
            at_most("first new call after the start", first_ms, 5000, "ms"),
            exactly("segments beside the new one's", len(now) - len(region), 0),
            exactly("segments left after its stop", len(_segments(running)), 0),
        ]


async def _first_call(call: LeanCall, http: aiohttp.ClientSession) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await call.connect(http)
        except (aiohttp.ClientError, OSError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.02)


def _segments(running: Server) -> list[str]:
    name = rundir.region_name(running.run_dir)
    return [path.name for path in Path("/dev/shm").glob(f"{name}*")]
