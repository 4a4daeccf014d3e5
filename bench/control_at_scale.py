"""What control does with tables of up to a million records, for bench/tables.py: its start, and a death."""

import asyncio
import contextlib
import itertools
import multiprocessing
import random
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from voicerelay.control.peer import Action
from voicerelay.control.server import ControlServer
from voicerelay.control.state import ControlState
from voicerelay.shm import protocol
from voicerelay.shm.protocol import MAX_REPLAY_ENTRIES, PROTOCOL, TRANSCEIVER
from voicerelay.shm.region import (
    ABI,
    DEFAULT_CAPACITY,
    MAX_CAPACITY,
    Region,
    Sizes,
    remove_segments,
)
from voicerelay.shm.table import KEY_BYTES, Entry

DYING_ROUTES = [1_000, 10_000, 100_000, MAX_CAPACITY]
REPLAYED = DEFAULT_CAPACITY  # routes, and as many flows
WATCHED_S = 3.0  # of a death that is swept little by little
INSTANCE = bytes(16)
OWNER = 0, 1  # the transceiver that dies: slot, generation
Figures = dict[str, float]


class InOneLoop(ControlState):
    """Removes all that a dead transceiver owned before it does anything else, as once it did."""

    def gone(self, peer_id: int) -> list[Action]:
        actions = super().gone(peer_id)
        while self.sweep():
            pass
        return actions


def fill(name: str, routes: int, flows: int, capacity: int) -> None:
    """A region as a control leaves it whose one transceiver has so many records."""
    region = Region.create(name, INSTANCE, Sizes.for_capacity(capacity))
    region.next_generation()
    for table, count in ((region.route_writer(), routes), (region.flow_writer(), flows)):
        keys = random.Random(count).randbytes(count * KEY_BYTES)
        for at in range(0, len(keys), KEY_BYTES):
            table.put(b"\0\0" + keys[at + 2 : at + KEY_BYTES], Entry(*OWNER, at, 0))


def anonymous_mib() -> float:
    """Memory of this process alone; the tables are shared."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


def start(name: str) -> Figures:
    """What a new control does before it serves: CPU, the longest silence of its heart, memory."""
    region = Region.attach(name, INSTANCE)
    before, begin, wall = anonymous_mib(), time.process_time(), time.monotonic()
    beats = [wall]
    block = type(region.counters.control())
    beat = block.beat

    def noted(self: Any) -> None:
        beats.append(time.monotonic())
        beat(self)

    block.beat = noted  # type: ignore[method-assign]
    state = ControlState(region, 1, time.monotonic())
    beats.append(time.monotonic())
    cpu = time.process_time() - begin
    return {
        "records": len(state._routes) + len(state._flows),
        "cpu_s": cpu,
        "wall_s": beats[-1] - wall,
        "longest_silence_s": max(b - a for a, b in itertools.pairwise(beats)),
        "memory_mib": anonymous_mib() - before,
        "replay_us": replay_us(state),
    }


def replay_us(state: ControlState) -> float:
    """CPU of each record that its transceiver replays to a control that has just started."""
    step = MAX_REPLAY_ENTRIES // 2  # as transceiver/directory.py has it
    routes, flows = (
        [[key, entry.session] for key, entry in itertools.islice(records.table.items(), REPLAYED)]
        for records in (state._routes, state._flows)
    )
    told = [
        protocol.encode(protocol.Replay(routes[at : at + step], flows[at : at + step]))
        for at in range(0, REPLAYED, step)
    ]
    state.hello(1, protocol.Hello(PROTOCOL, ABI, TRANSCEIVER, *OWNER, []))
    decoder, begin = protocol.Decoder(), time.process_time()
    for data in told:
        for message in decoder.feed(data):
            state.message(1, message, 0)
    cpu = time.process_time() - begin
    state.message(1, protocol.ReplayDone(), 0)
    if len(state._routes) != REPLAYED or len(state._flows) != REPLAYED:
        raise SystemExit("the replay lost records")
    return cpu / (2 * REPLAYED) * 1e6


def death(name: str, little_by_little: bool) -> Figures:
    """The longest turn of a control's loop (CPU) after its transceiver died."""
    region = Region.attach(name, INSTANCE)
    kind = ControlState if little_by_little else InOneLoop
    state = kind(region, 1, time.monotonic())
    state.hello(1, protocol.Hello(PROTOCOL, ABI, TRANSCEIVER, *OWNER, []))
    figures: Figures = {"routes": len(state._routes)}

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        with tempfile.TemporaryDirectory(prefix="tables-bench-") as folder:
            ControlServer(state, Path(folder) / "control.sock", {}).start()
            turns: list[float] = []
            last = time.process_time()

            def turn() -> None:
                nonlocal last
                now = time.process_time()
                turns.append(now - last)
                last = now
                loop.call_later(0.0005, turn)

            turn()
            await asyncio.sleep(0.3)
            turns.clear()
            begin, cpu = time.monotonic(), time.process_time()
            loop.call_soon(state.gone, 1)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WATCHED_S):
                    while state._routes.void or not turns[1:]:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
            took = time.monotonic() - begin
            removed = figures["routes"] - state._routes.void
            figures["longest_turn_ms"] = max(turns) * 1e3
            figures["removed"] = removed
            figures["removed_per_s"] = removed / took
            figures["busy"] = (time.process_time() - cpu) / took
            figures["routes_counted_after"] = len(state._routes)

    uvloop.run(serve())
    return figures


def in_child(work: Callable[..., Any], *arguments: object) -> Any:
    """Run in a process of its own, so that memory and collections are only its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(work, *arguments).result()


def measure_deaths() -> list[Figures]:
    found = []
    for routes in DYING_ROUTES:
        figures: Figures = {"routes": routes}
        name = f"vrbench-{secrets.token_hex(6)}"
        twin = f"{name}-twin"
        try:
            in_child(fill, name, routes, 0, routes)
            for kind in ("tables", "counters"):
                shutil.copy(f"/dev/shm/{name}.{kind}", f"/dev/shm/{twin}.{kind}")
            for one, little_by_little, key in ((name, True, "little"), (twin, False, "one_loop")):
                died = in_child(death, one, little_by_little)
                figures |= {f"{key}_{what}": v for what, v in died.items() if what != "routes"}
        finally:
            remove_segments(name)
            remove_segments(twin)
        found.append(figures)
    return found


def measure_starts(rounds: int) -> list[Figures]:
    found = []
    for capacity, times in ((DEFAULT_CAPACITY, rounds), (MAX_CAPACITY, 1)):
        name = f"vrbench-{secrets.token_hex(6)}"
        try:
            in_child(fill, name, capacity, capacity, capacity)
            runs = [in_child(start, name) for _ in range(times)]
        finally:
            remove_segments(name)
        found.append({"capacity": capacity} | {k: median(run[k] for run in runs) for k in runs[0]})
    return found
