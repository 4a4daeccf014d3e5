"""Callers that come and go as they are told: `python callers.py JSON`; a line of JSON in, a line of JSON out.

{"calls": N} has N calls up and tells how many are; {"measure": S} looks at them for S seconds; the end of the
input ends them all. The calls are those of `voicerelay loadtest`, talking all the time.
"""

import asyncio
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[0] = str(ROOT)

from voicerelay.cli.loadtest.call import Call, CallFailed
from voicerelay.cli.loadtest.contracts import Opened
from voicerelay.cli.loadtest.histogram import Histogram
from voicerelay.cli.loadtest.plan import Plan
from voicerelay.cli.loadtest.signalling import Signalling
from voicerelay.cli.loadtest.targets import sources
from voicerelay.cli.loadtest.wheel import Wheel
from voicerelay.cli.loadtest.worker import Worker

SOURCES = 8
BUSY = "503"
BUSY_S = 0.5  # before a server that is behind is asked again
PATIENCE_S = 8.0  # in all, for those it has refused
LEAVING_AT_ONCE = 8


class Turns(Signalling):
    """Several servers, one after another."""

    def __init__(self, http: aiohttp.ClientSession, urls: Sequence[str]) -> None:
        super().__init__(http, "whip", urls[0], "")
        self._turns = itertools.cycle([Signalling(http, "whip", url, "") for url in urls])

    async def open(self, sdp: str, name: str) -> Opened:
        return await next(self._turns).open(sdp, name)


class Crowd(Worker):
    """The calls of this process."""

    def __init__(self, urls: Sequence[str], rate: float) -> None:
        plan = Plan(urls[0], "whip", 1, 60, "steady", rate, 1.0, 1, 1, SOURCES, 0)
        super().__init__(plan, 0, "", sources(urls[0], SOURCES))
        self._urls = urls
        self._rate = rate
        self._numbers = itertools.count()
        self._calls: list[Call] = []
        self._refused: Counter[str] = Counter()
        self._lost = 0

    async def serve(self, reader: asyncio.StreamReader) -> None:
        async with aiohttp.ClientSession() as http:
            self.signalling = Turns(http, self._urls)
            self._wheel = Wheel(self._loop.time())
            turning = asyncio.ensure_future(self._turn())
            while line := await reader.readline():
                told = json.loads(line)
                if "calls" in told:
                    await self._have(told["calls"])
                    say({"up": len(self._calls)})
                else:
                    say(await self._measure(told["measure"]))
            await self._have(0)
            turning.cancel()

    async def _have(self, wanted: int) -> None:
        await self._leave([call for call in self._calls if call.lost_because])
        await self._leave(self._calls[wanted:])
        joining = []
        until = self._loop.time() + max(0, wanted - len(self._calls)) / self._rate + PATIENCE_S
        for _ in range(wanted - len(self._calls)):
            joining.append(asyncio.ensure_future(self._join(until)))
            await asyncio.sleep(1 / self._rate)
        await asyncio.gather(*joining)

    async def _join(self, until: float) -> None:
        """Also after some refusals."""
        while True:
            call = self._make(next(self._numbers))
            try:
                await call.connect()
            except CallFailed as exc:
                await call.hang_up()
                if BUSY in exc.reason and self._loop.time() < until:
                    await asyncio.sleep(BUSY_S)
                    continue
                self._refused[exc.reason] += 1
                return
            self._enter(call)
            self._calls.append(call)
            return

    async def _leave(self, leaving: list[Call]) -> None:
        for start in range(0, len(leaving), LEAVING_AT_ONCE):
            some = leaving[start : start + LEAVING_AT_ONCE]
            self._lost += sum(bool(call.lost_because) for call in some)
            for call in some:
                self._calls.remove(call)
            await asyncio.gather(*(self._end(call) for call in some))

    async def _measure(self, seconds: float) -> dict[str, Any]:
        tally, calls = self.tally, list(self._calls)
        came = [call.reception.received for call in calls]
        lag, late = Counter(tally.lag.counts), Counter(tally.arrivals.lateness.counts)
        sent, left_out, lost = tally.voice_sent, self._wheel.left_out, self._lost
        cpu, began = time.process_time(), time.monotonic()
        await asyncio.sleep(seconds)
        took = time.monotonic() - began
        here = [call for call in self._calls if not call.lost_because]
        rates = [
            (call.reception.received - before) / took
            for call, before in zip(calls, came, strict=True)
        ]
        refused, self._refused = self._refused, Counter()
        return {
            "up": len(here),
            "lost": self._lost - lost + len(self._calls) - len(here),
            "refused": dict(refused),
            "in_min": min(rates, default=0.0),
            # every call has its turn in each round of the wheel, so all send alike
            "out_min": (tally.voice_sent - sent) / took / max(1, len(calls)),
            "ticks_left_out": self._wheel.left_out - left_out,
            "late_p99_ms": _p99_ms(late, tally.arrivals.lateness),
            "lag_p99_ms": _p99_ms(lag, tally.lag),
            "cpu": (time.process_time() - cpu) / took,
        }


def _p99_ms(before: Counter[int], now: Histogram) -> float:
    """Of what has come since."""
    since = Histogram()
    since.counts, since.largest = now.counts - before, now.largest
    return 1000 * (since.quantile(0.99) or 0.0)


def say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


async def main() -> None:
    settings = json.loads(sys.argv[1])
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    crowd = Crowd(settings["urls"], settings["rate"])
    print("ready", flush=True)
    await crowd.serve(reader)


if __name__ == "__main__":
    uvloop.run(main())
