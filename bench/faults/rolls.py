"""All is replaced under live calls: relays, the agent's code, the installation; a drain has its deadline."""

import asyncio
import contextlib
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.faults.verdict import Check, at_most, exactly
from bench.faults.world import World, owner_of, processes, talking
from tests.support.client import Call
from tests.support.rolling import BROKEN, MARK, SECOND, AgentCode, command, other_installation
from tests.support.server import Server, server
from voicerelay.cli.commands import Command
from voicerelay.cli.errors import UserError
from voicerelay.cli.rolling import ask
from voicerelay.shm.region import ABI

GAP_MS = 100.0
DEADLINE_S = 2
TOLD_WITHIN_MS = 1000.0
ROLLED_WITHIN_MS = 30_000.0  # two new transceivers start on cores that serve calls
HEARD_S = 0.5


async def relays(running: Server, count: int, chance: random.Random) -> list[Check]:
    """A reload that finds nothing new: each relay is ended and followed, one after the other."""
    async with talking(running, count) as world:
        before = processes(world.status())
        world.hit()
        took = await _roll(world, "reload")
        after = processes(world.status())
        same = [n for n in after if n.startswith("relay") and after[n] == before[n]]
        return [
            exactly("relays that are the same as before", len(same), 0),
            at_most("all replaced", took, ROLLED_WITHIN_MS, "ms"),
            *await _unharmed(world),
        ]


async def new_code(running: Server, count: int, chance: random.Random) -> list[Check]:
    """A broken agent first, which must change nothing; then new code, which new calls get."""
    plane = "on" if running.status()["plane"] == "steering" else "off"
    with _with_agent(plane) as (own, code):
        async with talking(own, count) as world:
            before = processes(world.status())
            world.hit()
            code.is_now(BROKEN)
            failed, said = await command(own.run_dir, "reload")
            same = processes(world.status()) == before
            code.is_now(SECOND)
            world.hit()
            took = await _roll(world, "reload")
            mark = await _speaks(world)
            return [
                exactly("a broken agent is refused with its reason", _told(failed, said), 1),
                exactly("then every process is as before", same, 1),
                exactly("new calls get the new code", mark == MARK, 1),
                at_most("all replaced", took, ROLLED_WITHIN_MS, "ms"),
                *await _unharmed(world),
            ]


async def upgrade(running: Server, count: int, chance: random.Random) -> list[Check]:
    """The supervisor goes on as another process image; then transceivers, control and relays."""
    async with talking(running, count) as world:
        before, pid = processes(world.status()), world.status()["pid"]
        world.hit()
        took = await _roll(world, "upgrade")
        after = processes(world.status())
        kept = {name for name in after if before.get(name) == after[name]}
        old = {f"transceiver {slot}" for slot in world.owners}
        new = await _speaks(world)
        return [
            exactly("the supervisor keeps its pid", world.status()["pid"] == pid, 1),
            exactly("old processes besides the transceivers of the calls", len(kept - old), 0),
            exactly("new calls are answered", len(new), 1),
            at_most("all replaced", took, ROLLED_WITHIN_MS, "ms"),
            *await _unharmed(world),
        ]


async def skew(running: Server, count: int, chance: random.Random) -> list[Check]:
    """The new installation has another ABI."""
    with tempfile.TemporaryDirectory() as directory:
        change = ("shm/region.py", f"ABI = {ABI}\n", f"ABI = {ABI + 1}\n")
        python = other_installation(Path(directory), change)
        async with talking(running, count) as world:
            before = processes(world.status())
            world.hit()
            said = ""
            try:
                await asyncio.to_thread(ask, running.run_dir, Command("upgrade", python=python))
            except UserError as exc:
                said = exc.message
            same = processes(world.status()) == before
            told = f"has ABI {ABI + 1}" in said
            return [
                exactly("refused, with both versions", told, 1),
                exactly("every process is as before", same, 1),
                *await _unharmed(world),
            ]


async def deadline(running: Server, count: int, chance: random.Random) -> list[Check]:
    """A transceiver is drained; its calls do not hang up."""
    async with talking(running, count) as world:
        slot = chance.randrange(2)
        doomed = world.of(slot)
        others = set(range(count)) - doomed
        world.hit()
        await command(
            running.run_dir, "drain", str(slot), "--deadline", str(DEADLINE_S), "--no-wait"
        )
        new = await _new_owner(world)
        early = world.ended()
        await world.go_on(DEADLINE_S + 2.0)
        closed = [world.calls[i].closed_at for i in doomed]
        last_ms = max((at or float("inf")) - world.hit_at for at in closed) * 1000
        status = world.status()["transceivers"]
        counted = sum(one["stragglers_ended"] for one in status if one["slot"] == slot)
        return [
            exactly("calls ended before the deadline", len(early), 0),
            exactly("stragglers that are still heard", len(doomed - world.ended()), 0),
            exactly("calls ended besides the stragglers", len(world.ended() - doomed), 0),
            exactly("stragglers counted, of theirs", counted, len(doomed)),
            at_most("their clients know", last_ms, DEADLINE_S * 1000 + TOLD_WITHIN_MS, "ms"),
            exactly("a new call begins elsewhere", new != slot, 1),
            exactly("packets missing at others", world.missing(others), 0),
            at_most("gap max at others", world.gaps_ms(others)[-1], GAP_MS, "ms"),
        ]


async def _roll(world: World, what: str) -> float:
    """Do it, without waiting for the calls to end; how many ms it took."""
    began = time.monotonic()
    code, said = await command(world.running.run_dir, what, "--no-wait")
    assert code == 0, said
    return (time.monotonic() - began) * 1000


async def _unharmed(world: World) -> list[Check]:
    await world.go_on(time.monotonic() - world.hit_at + 1.0)
    return [
        exactly("calls ended", len(world.ended()), 0),
        exactly("packets missing", world.missing(), 0),
        at_most("gap max", world.gaps_ms()[-1], GAP_MS, "ms"),
    ]


async def _speaks(world: World) -> bytes:
    """The first byte of what a new call hears."""
    call = Call(world.running.http_url)
    try:
        await call.connect(world.http)
        await call.talk(HEARD_S)
        return call.received[-1].payload[:1] if call.received else b""
    finally:
        await call.close()


async def _new_owner(world: World) -> int:
    """Where a new call lives."""
    call = Call(world.running.http_url)
    try:
        await call.connect(world.http)
        return await owner_of(world.running, world.http, call.resource)
    finally:
        await call.close()


def _told(code: int, said: str) -> bool:
    return code == 2 and "broken on purpose" in said


@contextlib.contextmanager
def _with_agent(plane: str) -> Iterator[tuple[Server, AgentCode]]:
    """A server with an agent whose code is ours to change."""
    directory = Path(tempfile.mkdtemp(prefix="voicerelay-agent-"))
    try:
        code = AgentCode(directory)
        with server(app=code.app, env=code.env, extra=["--steering", plane]) as running:
            yield running, code
    finally:
        shutil.rmtree(directory)
