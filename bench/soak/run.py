"""The soak itself: rounds of churning callers, faults in their time, a look each second."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

from bench.soak import faults
from bench.soak.books import Key
from bench.soak.plan import Fault
from bench.soak.watch import Watch, keys
from tests.support.server import Server
from voicerelay.cli.loadtest.contracts import endpoint
from voicerelay.cli.loadtest.fleet import Fleet, Progress
from voicerelay.cli.loadtest.plan import Plan
from voicerelay.cli.loadtest.targets import sources
from voicerelay.cli.status import read_status

LOOK_S = 1.0
SETTLE_S = 1.0  # after the last call, before the books are closed
CALLS_A_WORKER = 250
SOURCES = 8


@dataclass(frozen=True)
class Terms:
    """calls at once; each round of `round_s` they all begin anew, and each place is taken about 4 times in it."""

    calls: int
    duration_s: float
    round_s: float
    rate: float
    talk: float
    seed: int


@dataclass
class Seen:
    """All that a soak has shown."""

    watch: Watch
    began: float
    took_s: float = 0.0
    sent: int = 0
    asked: int = 0
    connected: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    failed_at: list[tuple[float, int]] = field(default_factory=list)
    done: list[tuple[float, str, int]] = field(default_factory=list)  # faults
    hit: list[Key] = field(default_factory=list)
    doomed: int = 0  # calls that the faults may have ended
    unread: int = 0  # killed processes whose last counters could not be read
    not_replaced: list[str] = field(default_factory=list)
    interrupted: bool = False

    def now(self) -> float:
        return time.monotonic() - self.began


async def soak(running: Server, terms: Terms, planned: list[Fault]) -> Seen:
    seen = Seen(Watch(running.run_dir), time.monotonic())
    beside = [asyncio.ensure_future(_look(seen)), asyncio.ensure_future(_hit(seen, planned))]
    try:
        number = 0
        while (left := terms.duration_s - seen.now()) > 1 and not seen.interrupted:
            await _round(running, seen, terms, number, min(terms.round_s, left))
            number += 1
            for task in beside:
                if task.done():
                    task.result()  # raises what went wrong beside
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
    await asyncio.sleep(SETTLE_S)
    seen.watch.look(seen.now())
    seen.took_s = seen.now()
    return seen


async def _round(running: Server, seen: Seen, terms: Terms, number: int, seconds: float) -> None:
    url = endpoint("whip", running.http_url)
    plan = Plan(
        url=url,
        contract="whip",
        calls=terms.calls,
        duration_s=max(1.0, seconds),
        scenario="churn",
        rate=terms.rate,
        talk=terms.talk,
        seed=terms.seed + number,
        workers=-(-terms.calls // CALLS_A_WORKER),
        sources=SOURCES,
        marked=0,
    )

    def shown(progress: Progress) -> None:
        seen.failed_at.append((seen.now(), int(progress["failed"])))

    shown({"failed": 0})  # counts begin anew
    measured = await Fleet(plan, "", sources(url, SOURCES), None, shown).run()
    tally = measured.tally
    shown({"failed": tally.failed.total()})
    seen.sent += tally.sent
    seen.asked += tally.asked
    seen.connected += tally.connected
    seen.failed.update(tally.failed)
    seen.dropped.update(tally.dropped)
    seen.interrupted |= measured.interrupted
    if measured.workers_lost:
        raise RuntimeError("a process of callers died: its packets are in no book")


async def _look(seen: Seen) -> None:
    while True:
        seen.watch.look(seen.now())
        await asyncio.sleep(LOOK_S - seen.now() % LOOK_S)


async def _hit(seen: Seen, planned: list[Fault]) -> None:
    run_dir = seen.watch.run_dir
    for fault in planned:
        await asyncio.sleep(max(0.0, fault.at_s - seen.now()))
        done = await faults.do(fault, run_dir)
        if done is None:
            continue
        seen.done.append((round(seen.now(), 2), fault.kind, fault.number))
        seen.hit.append(done.key)
        seen.doomed += done.doomed
        if done.figures is not None:
            seen.watch.books.note(seen.now(), done.key, done.figures)
        elif done.key.role != "control":
            seen.unread += 1


def close(seen: Seen) -> dict[str, object]:
    """The last status; also who was hit and is not back."""
    status = read_status(seen.watch.run_dir)
    here = {(key.role, key.number): key.pid for key in keys(status)}
    seen.not_replaced = [
        f"{key.role} {key.number}"
        for key in seen.hit
        if here.get((key.role, key.number), key.pid) == key.pid
    ]
    return status
