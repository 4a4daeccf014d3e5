"""The search on a live contender: callers come, a window is looked at, more come, until frames are late."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench.capacity.contenders import HERE, Contender, Started
from bench.capacity.judge import Heard, Point, objections
from bench.capacity.search import Search
from bench.voice.contenders import child
from bench.voice.watch import pin
from tests.support.server import ServerError

SETTLE_S = 2.0
LOOKS_AT_A_FAILURE = 2  # a stall of the machine is no limit


@dataclass(frozen=True)
class Terms:
    """seconds: of each window (at least 6, which the servers' own figures cover). rate: calls begun a second."""

    server_cores: Sequence[int]
    caller_cores: Sequence[int]
    seconds: float
    rate: float
    limit_s: float  # for each contender


class Callers:
    """Processes of callers, one a core."""

    def __init__(self, processes: "list[subprocess.Popen[str]]") -> None:
        self._processes = processes

    def have(self, calls: int) -> None:
        share, more = divmod(calls, len(self._processes))
        self._ask([{"calls": share + (i < more)} for i in range(len(self._processes))])

    def measure(self, seconds: float) -> Heard:
        return Heard.of(self._ask([{"measure": seconds}] * len(self._processes)))

    def _ask(self, what: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for process, told in zip(self._processes, what, strict=True):
            assert process.stdin is not None
            process.stdin.write(json.dumps(told) + "\n")
            process.stdin.flush()
        found = []
        for process in self._processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise ServerError("the callers died")
            found.append(json.loads(line))
        return found


@contextlib.contextmanager
def callers(urls: Sequence[str], terms: Terms) -> Iterator[Callers]:
    with contextlib.ExitStack() as stack:
        processes = []
        for core in terms.caller_cores:
            settings = {"urls": list(urls), "rate": terms.rate / len(terms.caller_cores)}
            process = stack.enter_context(child(HERE / "callers.py", settings))
            pin(process.pid, core)
            processes.append(process)
        yield Callers(processes)


def find_limit(
    contender: Contender, search: Search, terms: Terms, shown: Callable[[Point], None]
) -> list[Point]:
    """Every number tried. After a failure server and callers begin anew: an overload leaves traces.

    Raises ServerError when the contender cannot run here, or the callers die.
    """
    points: list[Point] = []
    until = time.monotonic() + terms.limit_s
    while (calls := search.next()) is not None and time.monotonic() < until:
        with contender.start(terms.server_cores) as started, callers(started.urls, terms) as crowd:
            while calls is not None and time.monotonic() < until:
                point = look(started, crowd, calls, terms.seconds)
                points.append(point)
                shown(point)
                search.tell(calls, point.held)
                if not point.held:
                    break
                calls = search.next()
    return points


def look(started: Started, crowd: Callers, calls: int, seconds: float) -> Point:
    """Have so many calls, and look; what fails is looked at again."""
    crowd.have(calls)
    for _ in range(LOOKS_AT_A_FAILURE):
        time.sleep(SETTLE_S)
        cpu_s, began = started.cpu_s(), time.monotonic()
        heard = crowd.measure(seconds)
        late_ms = started.late_ms()
        cpu_s, took_s = started.cpu_s() - cpu_s, time.monotonic() - began
        point = Point(
            calls,
            cpu_s / took_s / max(1, heard.up) * 1e6,
            cpu_s / took_s,
            late_ms,
            started.rss_bytes(),
            heard,
            objections(calls, late_ms, heard),
        )
        if point.held or heard.up < calls:
            break
    return point


def progress(contender: Contender) -> Callable[[Point], None]:
    def shown(point: Point) -> None:
        heard = point.heard
        print(
            f"{contender.key:<9} {point.calls:>5} calls  {point.cost_us:7.0f} µs/call-s",
            f"busy {point.busy:.2f}, late {point.late_p99_ms:.1f} ms",
            f"callers {heard.cpu:.2f}, late {heard.lag_p99_ms:.1f} ms",
            "held" if point.held else "; ".join(point.why_not),
            sep="  ",
            file=sys.stderr,
            flush=True,
        )

    return shown
