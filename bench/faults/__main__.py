"""Breaks things under live calls and says what the callers got: `python bench/faults`.

Each row of the design's fault table, with real processes, seeded: target, measured, met or not. A gap is the
longest time without a packet from the server at a caller; callers send and expect one every 20 ms.
"""

import argparse
import asyncio
import json
import random
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[0] = str(ROOT)

from bench.faults import kills, limits, network, rolls, steady
from bench.faults.network import Run
from bench.faults.verdict import Check, exactly, worst
from tests.support.impair import Impairment
from tests.support.server import server

CALLS = 20


@dataclass(frozen=True)
class Fault:
    """`options`: of `voicerelay start`. `planes`: where it is run."""

    key: str
    title: str
    run: Run
    options: Sequence[str] = ()
    planes: Sequence[str] = ("off", "on")


PORTABLE = ("off",)
BURSTS = Impairment(loss=0.05, burst=4, delay_s=0.02)
DISORDER = Impairment(jitter_s=0.04, reorder=0.02, duplicate=0.02, corrupt=0.01, delay_s=0.02)
FAULTS = [
    Fault("kill-relay", "kill -9 a relay", kills.relay(signal.SIGKILL)),
    Fault("stop-relay", "SIGSTOP a relay", kills.relay(signal.SIGSTOP)),
    Fault("kill-transceiver", "kill -9 a transceiver", kills.transceiver),
    Fault("kill-control", "kill -9 control", kills.control(signal.SIGKILL)),
    Fault("stop-control", "SIGSTOP control", kills.control(signal.SIGSTOP)),
    Fault("kill-all", "kill -9 everything, start again", kills.everything),
    Fault("relay-roll", "relays replaced one by one", rolls.relays),
    Fault("reload", "reload with changed agent code, after a broken one", rolls.new_code),
    Fault("upgrade", "upgrade of the whole installation", rolls.upgrade),
    Fault("drain", f"drain with a deadline of {rolls.DEADLINE_S} s", rolls.deadline),
    Fault("skew", "upgrade with another ABI", rolls.skew, (), PORTABLE),
    Fault(
        "full-queue", "a transceiver reads nothing, 20,000 packets/s come for it", limits.full_queue
    ),
    Fault(
        "full-table",
        "more calls than the tables hold",
        limits.full_table,
        ["--capacity", str(limits.TABLE_CAPACITY)],
        PORTABLE,
    ),
    Fault("no-fds", "no file descriptor left", limits.no_descriptors, (), PORTABLE),
    Fault("no-memory", "no memory left", limits.no_memory, (), PORTABLE),
    Fault("clock", "the wall clock steps 1 h forward, 2 h back", network.clock_steps, (), PORTABLE),
    *(
        Fault(f"loss-{share}", f"{share} % loss", network.impaired(Impairment(loss=share / 100)))
        for share in (1, 5, 10, 20)
    ),
    Fault("bursts", "5 % loss in bursts of 4", network.impaired(BURSTS), (), PORTABLE),
    Fault(
        "disorder",
        "jitter, reorder, duplicates, 1 % spoilt",
        network.impaired(DISORDER),
        (),
        PORTABLE,
    ),
    Fault("narrow", "nothing above 1200 bytes arrives", network.narrow, (), PORTABLE),
    Fault("rebound", "the NAT gives callers other ports", network.rebound),
    Fault("steady", "churn and faults for two minutes", steady.churn, (), PORTABLE),
]


@dataclass
class Result:
    fault: str
    title: str
    steering: str
    checks: list[Check]

    @property
    def met(self) -> bool:
        return all(check.met for check in self.checks)


def run(fault: Fault, plane: str, options: argparse.Namespace) -> Result:
    """Every round meets a fresh server and fresh calls."""
    rounds: list[list[Check]] = []
    for number in range(options.rounds):
        chance = random.Random(f"{options.seed} {fault.key} {plane} {number}")
        with server(extra=["--steering", plane, *fault.options]) as running:
            try:
                rounds.append(asyncio.run(fault.run(running, options.calls, chance)))
            except Exception as exc:  # noqa: BLE001 - the other faults are still to be seen
                broken = exactly(f"the run itself broke ({type(exc).__name__}: {exc})", 1, 0)
                return Result(fault.key, fault.title, plane, [broken])
    return Result(fault.key, fault.title, plane, worst(rounds))


def lines(result: Result) -> list[str]:
    """Markdown rows; the fault stands in the first alone."""
    plane = {"off": "portable", "on": "steering"}[result.steering]
    names = [f"{result.title}, {plane}", *[""] * (len(result.checks) - 1)]
    return [
        f"| {name} | {check.what} | {check.target} | {check.seen} | {'met' if check.met else '**missed**'} |"
        for name, check in zip(names, result.checks, strict=True)
    ]


def _kept(path: Path) -> list[Result]:
    try:
        found = json.loads(path.read_text())["faults"]
        return [
            Result(r["fault"], r["title"], r["steering"], [Check(**check) for check in r["checks"]])
            for r in found
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return []


HEAD = ["| fault | what | target | measured | |", "|---|---|---|---|---|"]


def write(results: list[Result], options: argparse.Namespace) -> None:
    """Keep the figures: bench/results/faults.json and the table of docs/faults.md; rows that were not run stay."""
    kept = ROOT / "bench" / "results" / "faults.json"
    kept.parent.mkdir(exist_ok=True)
    known = {(result.fault, result.steering): result for result in [*_kept(kept), *results]}
    order = [(fault.key, plane) for fault in FAULTS for plane in fault.planes]
    results = [known[place] for place in order if place in known]
    figures = [asdict(result) | {"met": result.met} for result in results]
    told = {name: getattr(options, name) for name in ("calls", "rounds", "seed")}
    kept.write_text(json.dumps({"options": told, "faults": figures}, indent=2) + "\n")
    rows = [line for result in results for line in lines(result)]
    text = (
        "# Faults, and what callers hear of them\n\n"
        f"By `python bench/faults --write`: {options.calls} calls, 2 relays, 2 transceivers, seed {options.seed}; "
        f"of each target the worst of {options.rounds} rounds.\n\n" + "\n".join(HEAD + rows) + "\n"
    )
    (ROOT / "docs" / "faults.md").write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=CALLS)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steering", choices=("off", "on"), help="one data plane only")
    parser.add_argument("--only", nargs="+", choices=[f.key for f in FAULTS], metavar="FAULT")
    parser.add_argument("--list", action="store_true", help="the faults there are")
    parser.add_argument("--write", action="store_true", help="keep the figures: JSON and docs")
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{fault.key:<18}{fault.title}" for fault in FAULTS))
        return
    results = []
    print("\n".join(HEAD))
    for fault in FAULTS:
        for plane in fault.planes:
            if (options.only and fault.key not in options.only) or options.steering not in (
                None,
                plane,
            ):
                continue
            results.append(run(fault, plane, options))
            print("\n".join(lines(results[-1])), flush=True)
            if options.write:
                write(results, options)
    missed = [f"{r.title} ({r.steering})" for r in results if not r.met]
    if missed:
        sys.exit("targets missed: " + ", ".join(missed))


if __name__ == "__main__":
    main()
