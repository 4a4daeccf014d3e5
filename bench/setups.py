"""What a call costs before and after its talk: `python bench/setups.py`.

A real server with one relay and one transceiver, called by tests/support/lean.py. A setup is a whole call:
POST, one check, DTLS, one packet there and back, DELETE. Costs are CPU time (user + system) of the server's
processes; beside them the floor, what OpenSSL and libsrtp alone take for one side of a call.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
import uvloop
from OpenSSL import SSL

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import contextlib

from tests.support.lean import Caller, LeanCall, srtp_sessions
from tests.support.server import Server, server
from voicerelay.cli.status import read_status

RESULTS = ROOT / "bench" / "results" / "setups.json"
WARM_CALLS = 50
CHUNKS = (
    5  # of the setups that are counted; the floor is taken between them, on the same busy machine
)
FLOOR_HANDSHAKES = 50
SAMPLE_EVERY = 50  # cycles
SETTLE_S = 1.5  # for the last goodbyes, and a sweep


@dataclass
class Result:
    """Figures of one run; `*_us` are µs of CPU for one setup and its teardown."""

    offer: str
    transceiver_us: float = 0.0
    relay_us: float = 0.0
    control_us: float = 0.0
    floor_us: float = 0.0
    setups_per_core: float = 0.0  # a second of the transceiver's CPU
    setups_per_s: float = 0.0  # really, on this machine, at `concurrency`
    concurrency: int = 0
    answered_ms: dict[str, float] = field(default_factory=dict)  # POST to 201
    connected_ms: dict[str, float] = field(default_factory=dict)  # POST to DTLS done
    heard_ms: dict[str, float] = field(default_factory=dict)  # POST to the first echo
    held_calls: int = 0
    held_kb_per_call: float = 0.0
    cycles: int = 0
    cycle_slopes: dict[str, float] = field(default_factory=dict)  # growth a cycle
    cycle_growth: dict[str, float] = field(default_factory=dict)  # over all cycles


class Watched:
    """The server's processes, seen from outside."""

    def __init__(self, running: Server) -> None:
        status = read_status(running.run_dir)
        self.transceiver = psutil.Process(status["transceivers"][0]["pid"])
        self.relay = psutil.Process(status["relays"][0]["pid"])
        self.control = psutil.Process(status["control"]["pid"])

    def cpu_us(self) -> dict[str, float]:
        return {
            name: sum(process.cpu_times()[:2]) * 1e6
            for name, process in (
                ("transceiver_us", self.transceiver),
                ("relay_us", self.relay),
                ("control_us", self.control),
            )
        }

    def sizes(self) -> dict[str, float]:
        """Of the transceiver."""
        process = self.transceiver
        return {
            "rss_bytes": process.memory_info().rss,
            "fds": process.num_fds(),
            "threads": process.num_threads(),
        }


async def one_setup(caller: Caller, http: aiohttp.ClientSession) -> LeanCall:
    call = LeanCall(caller)
    try:
        await call.connect(http)
        await call.hang_up(http)
    finally:
        call.close()
    return call


async def many(
    count: int,
    concurrency: int,
    caller: Caller,
    http: aiohttp.ClientSession,
    after: Callable[[int], None] = lambda done: None,
) -> list[LeanCall]:
    """`count` setups, `concurrency` at a time; `after(done)` follows each."""
    calls: list[LeanCall] = []
    begun = iter(range(count))

    async def work() -> None:
        for _ in begun:
            calls.append(await one_setup(caller, http))
            after(len(calls))

    await asyncio.gather(*(work() for _ in range(concurrency)))
    return calls


async def hold(count: int, caller: Caller, http: aiohttp.ClientSession, watched: Watched) -> float:
    """Bytes that each of `count` calls at once takes, having spoken, now silent."""
    before = watched.sizes()["rss_bytes"]
    calls = [LeanCall(caller) for _ in range(count)]
    for call in calls:
        await call.connect(http)
    each = (watched.sizes()["rss_bytes"] - before) / count
    for call in calls:
        await call.hang_up(http)
    return each


async def cycles(
    result: Result, concurrency: int, caller: Caller, http: aiohttp.ClientSession, watched: Watched
) -> None:
    """What stays behind after many calls, and how it grows with each."""
    await asyncio.sleep(SETTLE_S)
    samples = [watched.sizes() | {"done": 0}]

    def sample(done: int) -> None:
        if done % SAMPLE_EVERY == 0:
            samples.append(watched.sizes() | {"done": done})

    await many(result.cycles, concurrency, caller, http, sample)
    await asyncio.sleep(SETTLE_S)
    samples.append(watched.sizes() | {"done": result.cycles})
    done = [s["done"] for s in samples]
    for name in ("rss_bytes", "fds", "threads"):
        values = [s[name] for s in samples]
        result.cycle_slopes[name] = float(np.polyfit(done, values, 1)[0])
        result.cycle_growth[name] = values[-1] - values[0]


async def run(running: Server, options: argparse.Namespace, result: Result) -> None:
    caller = Caller(running.http_url, data_channel=options.data)
    watched = Watched(running)
    async with aiohttp.ClientSession() as http:
        await many(WARM_CALLS, 4, caller, http)
        # First: what earlier calls left unused would make these look small.
        result.held_kb_per_call = await hold(options.held, caller, http, watched) / 1024

        times = [call.times for call in await many(options.count, 1, caller, http)]
        result.answered_ms = spread([t.answered - t.posted for t in times])
        result.connected_ms = spread([t.connected - t.posted for t in times])
        result.heard_ms = spread([t.heard - t.posted for t in times])

        before, took = watched.cpu_us(), 0.0
        floors = [floor_us()]
        each = options.count // CHUNKS
        for _ in range(CHUNKS):
            began = time.monotonic()
            await many(each, options.concurrency, caller, http)
            took += time.monotonic() - began
            floors.append(floor_us())
        for name, value in watched.cpu_us().items():
            setattr(result, name, (value - before[name]) / (each * CHUNKS))
        result.floor_us = statistics.mean(floors)
        result.setups_per_core = 1e6 / result.transceiver_us
        result.setups_per_s = each * CHUNKS / took

        await cycles(result, options.concurrency, caller, http, watched)


def spread(seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=20)
    return {"p50": statistics.median(seconds) * 1000, "p95": cuts[-1] * 1000}


def floor_us() -> float:
    """CPU of one side: an SSL object, its half of a DTLS handshake, keys, two SRTP sessions."""
    context = Caller("").context
    began = time.process_time()
    for _ in range(FLOOR_HANDSHAKES):
        client, other = SSL.Connection(context), SSL.Connection(context)
        client.set_connect_state()
        other.set_accept_state()
        done: set[SSL.Connection] = set()
        while len(done) < 2:
            for one, two in ((client, other), (other, client)):
                try:
                    one.do_handshake()
                    done.add(one)
                except SSL.WantReadError:
                    pass
                with contextlib.suppress(SSL.WantReadError):
                    two.bio_write(one.bio_read(65536))
        srtp_sessions(client)
        srtp_sessions(other)
    return (time.process_time() - began) / FLOOR_HANDSHAKES / 2 * 1e6


def show(result: Result) -> None:
    rows: list[tuple[str, Any]] = [
        ("transceiver CPU / setup", f"{result.transceiver_us:.0f} µs"),
        ("  floor: OpenSSL + libsrtp", f"{result.floor_us:.0f} µs"),
        ("  times the floor", f"{result.transceiver_us / result.floor_us:.1f}"),
        ("relay, control CPU / setup", f"{result.relay_us:.0f}, {result.control_us:.0f} µs"),
        ("setups/s and core", f"{result.setups_per_core:.0f}"),
        (f"setups/s, {result.concurrency} at a time", f"{result.setups_per_s:.0f}"),
        ("memory / held call", f"{result.held_kb_per_call:.1f} KB"),
    ]
    for name in ("answered", "connected", "heard"):
        of = getattr(result, f"{name}_ms")
        rows.append((f"POST to {name}, p50 / p95", f"{of['p50']:.1f} / {of['p95']:.1f} ms"))
    for name, value in result.cycle_growth.items():
        slope = result.cycle_slopes[name]
        rows.append((f"{name}, {result.cycles} cycles", f"{value:+.0f} ({slope:+.3f} a cycle)"))
    print(f"offer: {result.offer}")
    for label, text in rows:
        print(f"{label:<32}{text:>24}")


def main() -> None:
    parser = argparse.ArgumentParser(description="What a call costs before and after its talk.")
    parser.add_argument("--count", type=int, default=500, help="setups a phase")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--held", type=int, default=300, help="calls at once, for their memory")
    parser.add_argument("--cycles", type=int, default=1000, help="calls, to find leaks")
    parser.add_argument("--data", action="store_true", help="offer a data channel too")
    parser.add_argument("--app", help="agent, as for voicerelay start")
    parser.add_argument("--write", action="store_true", help=f"keep the figures in {RESULTS.name}")
    options = parser.parse_args()
    offer = "audio and data channel" if options.data else "audio"
    result = Result(offer, concurrency=options.concurrency, held_calls=options.held)
    result.cycles = options.cycles
    with server(
        relays=1,
        transceivers=1,
        app=options.app,
        extra=("--log-level", "warning", "--max-sessions", str(options.held + 100)),
    ) as running:
        uvloop.run(run(running, options, result))
    show(result)
    if options.write:
        RESULTS.write_text(json.dumps(asdict(result), indent=2) + "\n")


if __name__ == "__main__":
    main()
