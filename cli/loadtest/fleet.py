"""Runs the worker processes of a load test, watches the server beside them, and collects what they tell."""

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from voicerelay.cli.errors import NotRunning, UserError
from voicerelay.cli.loadtest.plan import Plan
from voicerelay.cli.loadtest.tally import Tally, merged
from voicerelay.cli.loadtest.watch import Counted, Sample, Watched

READY_TIMEOUT_S = 60.0
END_GRACE_S = 90.0  # after the planned end, for the last goodbyes
SAMPLE_S = 1.0
EXIT_GRACE_S = 3.0
SETTLE_S = 0.3  # for the server's last datagrams, before its counters are read
MAX_LINE_BYTES = 16 << 20
_MODULE = "voicerelay.cli.loadtest.worker"
_SUMS = ("up", "asked", "failed", "dropped", "sent", "received", "frames", "late")

Progress = dict[str, float]


@dataclass
class Measured:
    """What is known after a test. `progress`: sums over the workers, twice a second."""

    plan: Plan
    took_s: float
    interrupted: bool
    workers_lost: int
    tally: Tally
    progress: list[Progress]
    samples: list[Sample] = field(default_factory=list)
    counted: Counted | None = None


class Fleet:
    """One load test. `shown` gets each progress."""

    def __init__(
        self,
        plan: Plan,
        key: str,
        sources: list[str],
        watched: Watched | None,
        shown: Callable[[Progress], None],
    ) -> None:
        self._plan = plan
        self._key = key
        self._sources = sources
        self._watched = watched
        self._shown = shown
        self._workers: list[asyncio.subprocess.Process] = []
        self._latest: dict[int, Progress] = {}
        self._progress: list[Progress] = []
        self._done: list[dict[str, Any]] = []
        self._samples: list[Sample] = []
        self._interrupted = False

    async def run(self) -> Measured:
        """The whole test. Raises UserError when no worker starts."""
        loop = asyncio.get_running_loop()
        try:
            for index in range(self._plan.workers):
                await self._start(index)
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self.interrupt)
            return await self._measure()
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
            await self._end()

    def interrupt(self) -> None:
        """End early; what was measured is reported."""
        self._interrupted = True
        for worker in self._workers:
            if worker.stdin is not None:
                worker.stdin.close()

    async def _start(self, index: int) -> None:
        worker = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", _MODULE,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=MAX_LINE_BYTES,
        )  # fmt: skip
        self._workers.append(worker)
        told = {
            "plan": self._plan.to_json(),
            "index": index,
            "key": self._key,
            "sources": self._sources,
        }
        self._write(worker, json.dumps(told))

    async def _measure(self) -> Measured:
        async with asyncio.timeout(READY_TIMEOUT_S):
            ready = [await self._line(worker) for worker in self._workers]
        if not all(ready):
            raise UserError("a worker process of the load test did not start")
        began = time.monotonic()
        for worker in self._workers:
            self._write(worker, "go")
        watching = asyncio.ensure_future(self._watch(began))
        listening = [self._listen(index, one) for index, one in enumerate(self._workers)]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._plan.duration_s + END_GRACE_S):
                await asyncio.gather(*listening)
        took_s = time.monotonic() - began
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        return Measured(
            self._plan,
            took_s,
            self._interrupted,
            len(self._workers) - len(self._done),
            merged(self._done),
            self._progress,
            self._samples,
            await self._count(),
        )

    async def _count(self) -> Counted | None:
        if self._watched is None:
            return None
        await asyncio.sleep(SETTLE_S)
        try:
            return self._watched.counted()
        except NotRunning:
            return None

    async def _watch(self, began: float) -> None:
        while self._watched is not None:
            with contextlib.suppress(NotRunning):
                self._samples.append(self._watched.sample(round(time.monotonic() - began, 2)))
            await asyncio.sleep(SAMPLE_S)

    async def _listen(self, index: int, worker: asyncio.subprocess.Process) -> None:
        while told := await self._line(worker):
            if "done" in told:
                self._done.append(told["done"])
            elif "progress" in told:
                self._latest[index] = told["progress"]
                if index == min(self._latest):
                    self._sum_up(told["progress"]["at_s"])

    def _sum_up(self, at_s: float) -> None:
        sums = {name: sum(one[name] for one in self._latest.values()) for name in _SUMS}
        self._progress.append({"at_s": at_s} | sums)
        self._shown(self._progress[-1])

    async def _line(self, worker: asyncio.subprocess.Process) -> dict[str, Any]:
        """Empty at its end."""
        assert worker.stdout is not None
        line = await worker.stdout.readline()
        told: dict[str, Any] = json.loads(line) if line else {}
        return told

    def _write(self, worker: asyncio.subprocess.Process, line: str) -> None:
        assert worker.stdin is not None
        worker.stdin.write(line.encode() + b"\n")

    async def _end(self) -> None:
        for worker in self._workers:
            with contextlib.suppress(TimeoutError, ProcessLookupError):
                if self._done:
                    async with asyncio.timeout(EXIT_GRACE_S):
                        await worker.wait()
            if worker.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    worker.kill()
                await worker.wait()
