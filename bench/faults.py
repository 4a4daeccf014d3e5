"""Kills and stops processes under live calls and prints what the callers hear: `python bench/faults.py`.

Every fault meets fresh calls on one server. A gap is the longest time without a packet from the server at
a caller, in the seconds after the fault; callers send and expect one packet every 20 ms.
"""

import argparse
import asyncio
import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.client import Call
from tests.support.server import Server, server
from voicerelay.cli.status import read_status

BEFORE_S, AFTER_S = 2.0, 4.0


@dataclass
class Result:
    """What one fault did. Gaps in ms over the calls that were to go on."""

    fault: str
    calls: int
    dropped: int
    should_drop: int
    wrongly_dropped: int
    gap_p50_ms: float
    gap_p99_ms: float
    gap_max_ms: float
    gap_max_before_ms: float
    back_after_ms: float
    caller_lag_ms: float


def processes(status: dict[str, Any]) -> dict[str, int]:
    """Name -> pid of every process that may be hit."""
    found = {f"relay {p['index']}": p["pid"] for p in status["relays"]}
    found |= {f"transceiver {p['slot']}": p["pid"] for p in status["transceivers"]}
    if status["control"]:
        found["control"] = status["control"]["pid"]
    return found


async def wait_back(running: Server, name: str, old: int, since: float) -> float:
    """Milliseconds until another process has taken the place and its heart beats."""
    while time.monotonic() - since < 15:
        now = processes(await asyncio.to_thread(read_status, running.run_dir)).get(name)
        if now is not None and now != old:
            return (time.monotonic() - since) * 1000
        await asyncio.sleep(0.02)
    return float("inf")


async def watch_lag(late: list[float]) -> None:
    """How late the callers' own loop is: a gap below that says nothing about the server."""
    while True:
        due = time.monotonic() + 0.005
        await asyncio.sleep(0.005)
        late.append((time.monotonic() - due) * 1000)


async def one_fault(
    running: Server, count: int, fault: str, target: str, number: signal.Signals
) -> Result:
    """Set `count` calls up, hit one process, and look at what every caller got."""
    async with aiohttp.ClientSession() as http:
        calls = [Call(running.http_url) for _ in range(count)]
        for call in calls:
            await call.connect(http)
        owner: dict[int, int] = {}
        for index, call in enumerate(calls):
            url = running.http_url + call.resource.replace("/whip/", "/sessions/")
            async with http.get(url) as response:
                owner[index] = (await response.json())["transceiver"]
        pid = processes(read_status(running.run_dir))[target]
        hit_at = 0.0
        back = 0.0

        async def hit() -> None:
            nonlocal hit_at, back
            await asyncio.sleep(BEFORE_S)
            hit_at = time.monotonic()
            os.kill(pid, number)
            back = await wait_back(running, target, pid, hit_at)

        late: list[float] = []
        watch = asyncio.ensure_future(watch_lag(late))
        gc.collect()
        gc.disable()  # a collection stops every caller at once
        await asyncio.gather(hit(), *(call.talk(BEFORE_S + AFTER_S) for call in calls))
        await asyncio.sleep(0.1)
        gc.enable()
        watch.cancel()
        doomed = {index for index in range(count) if target == f"transceiver {owner[index]}"}
        alive = {
            index
            for index, call in enumerate(calls)
            if call.connected and call.received and call.received[-1].at > hit_at + AFTER_S - 0.5
        }
        kept = [calls[i] for i in range(count) if i not in doomed]
        gaps = sorted(c.longest_gap_s(hit_at - 0.1, hit_at + AFTER_S) * 1000 for c in kept)
        before = max(c.longest_gap_s(hit_at - BEFORE_S + 0.3, hit_at) * 1000 for c in kept)
        result = Result(
            fault,
            count,
            count - len(alive),
            len(doomed),
            len(set(range(count)) - alive - doomed),
            gaps[len(gaps) // 2],
            gaps[min(len(gaps) - 1, int(len(gaps) * 0.99))],
            gaps[-1],
            before,
            back,
            max(late),
        )
        for call in calls:
            await call.close()
        await asyncio.sleep(0.5)
        return result


FAULTS: list[tuple[str, Callable[[int], str], signal.Signals]] = [
    ("kill -9 a relay", lambda n: f"relay {n % 2}", signal.SIGKILL),
    ("SIGSTOP a relay", lambda n: f"relay {n % 2}", signal.SIGSTOP),
    ("kill -9 control", lambda n: "control", signal.SIGKILL),
    ("SIGSTOP control", lambda n: "control", signal.SIGSTOP),
    ("kill -9 a transceiver", lambda n: f"transceiver {n % 2}", signal.SIGKILL),
]


def table(results: list[Result]) -> str:
    """Markdown: for each fault the worst round."""
    head = "| fault | calls | ended (rightly) | wrong | gap p50 | gap p99 | gap max "
    lines = [
        head + "| callers' own lag | process back after |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for fault in dict.fromkeys(result.fault for result in results):
        rounds = [result for result in results if result.fault == fault]
        worst = max(rounds, key=lambda result: (result.wrongly_dropped, result.gap_max_ms))
        lines.append(
            f"| {fault} | {worst.calls} | {worst.dropped} ({worst.should_drop}) | "
            f"{worst.wrongly_dropped} | {worst.gap_p50_ms:.0f} ms | {worst.gap_p99_ms:.0f} ms | "
            f"{worst.gap_max_ms:.0f} ms | {worst.caller_lag_ms:.0f} ms | {worst.back_after_ms:.0f} ms |"
        )
    return "\n".join(lines)


def write(results: list[Result]) -> None:
    """Keep the figures: bench/results/faults.json and the table in the README."""
    kept = ROOT / "bench" / "results" / "faults.json"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")
    readme = ROOT / "README.md"
    head, begin, rest = readme.read_text().partition("<!-- faults:begin -->\n")
    _, end, tail = rest.partition("<!-- faults:end -->")
    rounds = len(results) // len(FAULTS)
    note = f"{results[0].calls} calls, 2 relays, 2 transceivers, the worst of {rounds} rounds:\n\n"
    readme.write_text(head + begin + note + table(results) + "\n" + end + tail)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steering", choices=("off", "on"), default="off", help="the data plane")
    parser.add_argument("--write", action="store_true", help="keep the figures: JSON and README")
    options = parser.parse_args()
    results = []
    with server(relays=2, transceivers=2, extra=["--steering", options.steering]) as running:
        print(f"{options.calls} calls, 2 relays, 2 transceivers; gaps in ms")
        print(
            f"{'fault':<24}{'dropped':>8}{'(right)':>8}{'wrong':>6}"
            f"{'p50':>7}{'p99':>7}{'max':>7}{'max before':>12}{'replaced':>10}{'caller lag':>12}"
        )
        for number in range(options.rounds):
            for fault, target, hit in FAULTS:
                result = asyncio.run(one_fault(running, options.calls, fault, target(number), hit))
                results.append(result)
                print(
                    f"{result.fault:<24}{result.dropped:>8}{result.should_drop:>8}"
                    f"{result.wrongly_dropped:>6}{result.gap_p50_ms:>7.0f}{result.gap_p99_ms:>7.0f}"
                    f"{result.gap_max_ms:>7.0f}{result.gap_max_before_ms:>12.0f}"
                    f"{result.back_after_ms:>10.0f}{result.caller_lag_ms:>12.0f}",
                    flush=True,
                )
    if options.write:
        write(results)
    if any(r.wrongly_dropped for r in results):
        sys.exit("calls were dropped that should have gone on")


if __name__ == "__main__":
    main()
