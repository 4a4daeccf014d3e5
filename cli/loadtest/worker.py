"""A worker process of a load test: holds its share of the calls. Told and telling by lines of JSON.

Reads the plan and its place among the workers, says "ready", begins at "go", ends early when its standard input
ends; tells its progress twice a second, and what it has counted at its end.
"""

import asyncio
import contextlib
import gc
import heapq
import itertools
import json
import math
import secrets
import select
import sys
import time
from collections.abc import Iterator
from typing import Any

import aiohttp
import uvloop

from voicerelay.cli.loadtest import speech
from voicerelay.cli.loadtest.call import Call, CallFailed
from voicerelay.cli.loadtest.ear import Ear
from voicerelay.cli.loadtest.impairment import Fate
from voicerelay.cli.loadtest.plan import Plan
from voicerelay.cli.loadtest.scenario import PlannedCall
from voicerelay.cli.loadtest.signalling import Signalling
from voicerelay.cli.loadtest.tally import Tally, to_json
from voicerelay.cli.loadtest.targets import is_here
from voicerelay.cli.loadtest.wheel import Wheel
from voicerelay.transceiver.dtls import Certificate

SETUPS_AT_ONCE = 16
GOODBYES_AT_ONCE = 32
PROGRESS_S = 0.5
CARE_S = 0.5  # each call once in that
NOT_BEGUN = "its time was over before others had begun"
MAX_READ_ROUNDS = 50  # of one turn
MAX_DELAYED = 100_000  # datagrams under way, of the impairment; more are lost


class Worker:
    """The calls of this process; also what each of them sees of it (call.Party)."""

    def __init__(self, plan: Plan, index: int, key: str, sources: list[str]) -> None:
        self.tally = Tally()
        self.payloads = speech.payloads()
        self.fingerprint = Certificate.shared().getFingerprints()[0].value
        self.signalling: Signalling
        self._plan = plan
        self._index = index
        self._key = key
        self._sources = sources
        self._run = secrets.token_hex(4)
        self._loop = asyncio.get_running_loop()
        self._wheel: Wheel[Call] = Wheel(0.0)
        self._care: Iterator[Call] = iter(())
        self._cared_at = 0.0
        self._poll = select.epoll()
        self._by_fd: dict[int, Call] = {}
        self._delayed: list[tuple[float, int, Call, bytes]] = []
        self._order = itertools.count()
        self._setups = asyncio.Semaphore(SETUPS_AT_ONCE)
        self._goodbyes = asyncio.Semaphore(GOODBYES_AT_ONCE)
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def allowed(self, host: str) -> bool:
        return self._plan.allow_remote or is_here(host)

    def stop(self) -> None:
        """End early: nothing new begins, and every call says goodbye."""
        self._stopping.set()

    async def run(self) -> None:
        cpu, began = time.process_time(), self._loop.time()
        limit = aiohttp.TCPConnector(limit=SETUPS_AT_ONCE + GOODBYES_AT_ONCE)
        async with aiohttp.ClientSession(connector=limit) as http:
            self.signalling = Signalling(http, self._plan.contract, self._plan.url, self._key)
            self._wheel = Wheel(began)
            timers = [asyncio.ensure_future(self._turn()), asyncio.ensure_future(self._tell(began))]
            mine = self._plan.planned()[self._index :: self._plan.workers]
            lives = [asyncio.ensure_future(self._live(one, began)) for one in mine]
            await asyncio.wait(lives) if lives else None
            for timer in timers:
                timer.cancel()
            await asyncio.wait(timers)
        self.tally.ticks_left_out = self._wheel.left_out
        self.tally.cpu_s = time.process_time() - cpu
        say({"done": to_json(self.tally)})

    # ---- a call's life -----------------------------------------------------------------------

    async def _live(self, planned: PlannedCall, began: float) -> None:
        """From its planned beginning to its end; asleep in between."""
        await self._until(began + planned.begin_s)
        if self._stopping.is_set():
            return
        async with self._setups:
            self.tally.asked += 1
            now = self._loop.time() - began
            self.tally.begin_lag.add(max(0.0, now - planned.begin_s))
            if now >= planned.end_s or self._stopping.is_set():
                self.tally.failed[NOT_BEGUN] += 1
                return
            call = self._make(planned.number)
            try:
                await call.connect()
            except CallFailed as exc:
                self.tally.failed[exc.reason] += 1
                await self._end(call)
                return
        self._enter(call)
        await self._until(began + planned.end_s, call)
        await self._end(call)

    def _make(self, number: int) -> Call:
        plan = self._plan
        seed = f"{plan.seed} {number}"
        source = self._sources[number % len(self._sources)]
        ear = Ear() if number < plan.marked and plan.talk else None
        name = f"{self._run}{number:06d}"
        return Call(self, name, seed, source, plan.talk, Fate(plan.impairment, seed), ear)

    async def _until(self, moment: float, call: Call | None = None) -> None:
        """Until then, or the end of the test, or that of the call."""
        waits = [self._stopping] + ([call.gone] if call is not None else [])
        tasks = [asyncio.ensure_future(one.wait()) for one in waits]
        left = moment - self._loop.time()
        if left > 0 and not any(one.is_set() for one in waits):
            await asyncio.wait(tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()

    def _enter(self, call: Call) -> None:
        self.tally.connected += 1
        self._wheel.add(call)
        self.tally.up_most = max(self.tally.up_most, len(self._wheel))
        self._by_fd[call.fileno()] = call
        self._poll.register(call.fileno(), select.EPOLLIN)

    async def _end(self, call: Call) -> None:
        was_up = self._by_fd.get(call.fileno()) is call
        async with self._goodbyes:
            self._wheel.remove(call)
            if was_up:
                self._poll.unregister(call.fileno())
                del self._by_fd[call.fileno()]
                self.tally.call_s += self._loop.time() - call.up_at
            await call.hang_up()
        self.tally.take_times(call.times)
        self.tally.expected += call.reception.expected
        if not was_up:
            return
        if call.lost_because:
            self.tally.dropped[call.lost_because] += 1
        else:
            self.tally.ended += 1
        if call.reception.stream is not None:
            self.tally.jitter.add(call.reception.jitter_s)
        if call.ear is not None:
            self.tally.marks_missed += call.ear.missed
            for delay in call.ear.last_delays():
                self.tally.mouth_to_ear.add(delay)

    # ---- for the calls -----------------------------------------------------------------------

    def later(self, at: float, call: Call, data: bytes) -> None:
        if len(self._delayed) >= MAX_DELAYED:
            self.tally.lost_out += 1
            return
        heapq.heappush(self._delayed, (at, next(self._order), call, data))

    def socket_changed(self, call: Call, old_fd: int) -> None:
        self._by_fd.pop(old_fd, None)  # a closed socket has left epoll
        self._by_fd[call.fileno()] = call
        self._poll.register(call.fileno(), select.EPOLLIN)

    # ---- its timers --------------------------------------------------------------------------

    async def _turn(self) -> None:
        """The one clock of all calls."""
        wheel, loop, lag = self._wheel, self._loop, self.tally.lag
        while True:
            await asyncio.sleep(max(0.0, wheel.next_at - loop.time()))
            now = loop.time()
            for due, calls in wheel.due(now):
                if calls:
                    lag.add(now - due)
                for call in calls:
                    call.speak(due)
            while self._delayed and self._delayed[0][0] <= now:
                _, _, call, data = heapq.heappop(self._delayed)
                if call in wheel:  # who has hung up says nothing more
                    call.send(data)
            self._read()
            self._take_care(now)

    def _read(self) -> None:
        """All that has come: a datagram of each socket, and again while there are more."""
        for _ in range(MAX_READ_ROUNDS):
            ready = self._poll.poll(0)
            if not ready:
                return
            for fd, _ in ready:
                call = self._by_fd.get(fd)
                if call is not None:
                    call.take()

    def _take_care(self, now: float) -> None:
        """Of some calls each turn, so that all have had theirs after CARE_S, however rare turns are."""
        share = min(1.0, (now - self._cared_at) / CARE_S)
        self._cared_at = now
        for _ in range(math.ceil(len(self._wheel) * share) + 1):
            call = next(self._care, None)
            if call is None:
                self._care = iter(self._wheel)
                return
            if call in self._wheel:
                call.care(now)
                if call.lost_because:
                    call.gone.set()

    async def _tell(self, began: float) -> None:
        while True:
            await asyncio.sleep(PROGRESS_S)
            tally = self.tally
            say(
                {
                    "progress": {
                        "at_s": round(self._loop.time() - began, 2),
                        "up": len(self._wheel),
                        "asked": tally.asked,
                        "failed": tally.failed.total(),
                        "dropped": tally.dropped.total(),
                        "sent": tally.sent,
                        "received": tally.received,
                        "frames": tally.arrivals.frames,
                        "late": tally.arrivals.late,
                    }
                }
            )


def say(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def main() -> None:
    reader = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    told = json.loads(await reader.readline())
    worker = Worker(Plan.from_json(told["plan"]), told["index"], told["key"], told["sources"])
    gc.collect()
    gc.freeze()
    say({"ready": True})
    if not await reader.readline():
        return

    async def watch_input() -> None:
        await reader.read()
        worker.stop()

    watching = asyncio.ensure_future(watch_input())
    await worker.run()
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching


if __name__ == "__main__":
    import signal

    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches us too; the command tells us to end
    uvloop.run(main())
