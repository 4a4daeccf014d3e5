"""Compares relays, ours and others: `python bench/relay`. One run, one table.

Also `--check 10000000`: so many packets through ours, none lost, doubled or led astray.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[0] = str(ROOT)

from bench.relay import plot, report
from bench.relay.build import build
from bench.relay.contenders import CLoop, CMmsg, Contender, NoRelay, UvloopRelay
from bench.relay.foreign import Coturn, Nginx
from bench.relay.measure import Bench, Phase, faults, run_phase
from bench.relay.ours import OursPortable, OursPortableStun, OursPython, OursSteering
from bench.relay.world import Flows, NotAvailable, free_udp_port

CONTENDERS: list[type[Contender]] = [
    CLoop,
    CMmsg,
    Coturn,
    Nginx,
    UvloopRelay,
    OursPortable,
    OursPython,
    OursPortableStun,
    OursSteering,
    NoRelay,
]
RESULTS = ROOT / "bench" / "results"
EVERYDAY_RATE = 20_000  # packets/s: 400 calls
LONE_RATE = 50  # packets/s: each finds the relay asleep
CHECK_STUN_PERCENT = 10


def phases(quick: bool) -> list[Phase]:
    if quick:
        return [
            Phase(report.SATURATED, 0, 0.7, 0.2),
            Phase(report.EVERYDAY, EVERYDAY_RATE, 1.0, 0.2),
            Phase(report.LONE, LONE_RATE, 0.6, 0.1),
        ]
    return [
        Phase(report.SATURATED, 0, 1.5),
        Phase(report.EVERYDAY, EVERYDAY_RATE, 3.0),
        Phase(report.LONE, LONE_RATE, 2.0, 0.2),
    ]


def compare(options: argparse.Namespace, bench: Bench, programs: Path) -> int:
    """Round after round of every contender, then the table."""
    chosen = [c for c in CONTENDERS if not options.only or c.key in options.only]
    titles = {contender.key: contender.title for contender in chosen}
    runs: report.Runs = {}
    missing: dict[str, str] = {}
    broken = False
    for number in range(options.rounds):
        for kind in chosen:
            if kind.key in missing:
                continue
            with tempfile.TemporaryDirectory(prefix="relay-bench-") as scratch:
                contender = kind(programs, Path(scratch), options.relay_cpu)
                stun = kind.stun_percent if kind.stun_percent is not None else options.stun
                try:
                    target = contender.start(bench.flows)
                    target.window = options.window or target.window
                    for phase in phases(options.quick):
                        if phase.key not in options.phases:
                            continue
                        figures = run_phase(bench, target, phase, stun)
                        runs.setdefault(kind.key, {}).setdefault(phase.key, []).append(figures)
                        wrong = faults(figures)
                        broken |= bool({"misdelivered", "duplicates", "bad"} & wrong.keys())
                        _progress(number, kind.key, phase.key, figures, wrong)
                except NotAvailable as exc:
                    missing[kind.key] = str(exc)
                    print(f"{kind.key}: {exc}", file=sys.stderr)
                finally:
                    contender.stop()
    print(report.table(titles, runs, missing))
    print("\n".join(["", report.noise(runs), *report.targets(runs)]))
    kept = {
        "rounds": options.rounds,
        "flows": options.flows,
        "stun_percent": options.stun,
        "quick": options.quick,
        "relay_settings": dict(OursPortable.relay_settings),
    }
    summary = report.summary(titles, runs, missing, kept)
    report.write(options.results / "relay.json", summary)
    print(plot.draw(summary, options.results / "relay.png"), file=sys.stderr)
    return 1 if broken else 0


def _progress(
    number: int, key: str, phase: str, figures: dict[str, float], wrong: dict[str, int]
) -> None:
    shown = [
        f"{name} {figures[name]:.2f}"
        for name in ("relay_us", "path_us", "p50_us", "p99_us", "relay_busy", "starved", "others")
        if name in figures
    ]
    rate = f"{figures['packets_per_s']:.0f}/s"
    print(f"{number + 1} {key:<14}{phase:<10}", rate, *shown, wrong or "", file=sys.stderr)


def check(options: argparse.Namespace, bench: Bench, programs: Path) -> int:
    """Exactly so many packets, paced so that no queue overflows, each seen once and at its place."""
    kinds = [c for c in CONTENDERS if c.key in (options.only or [OursPortable.key])]
    failed = False
    for kind in kinds:
        with tempfile.TemporaryDirectory(prefix="relay-bench-") as scratch:
            contender = kind(programs, Path(scratch), options.relay_cpu)
            try:
                target = contender.start(bench.flows)
                stun = CHECK_STUN_PERCENT if options.stun is None else options.stun
                phase = Phase("check", options.check_rate, 1.0, 0.0, options.check, target.window)
                figures = run_phase(bench, target, phase, stun)
            except NotAvailable as exc:
                print(f"{kind.key}: {exc}")
                failed = True
                continue
            finally:
                contender.stop()
        wrong = faults(figures)
        if figures["sent"] != options.check:
            wrong["not sent"] = options.check - int(figures["sent"])
        failed |= bool(wrong)
        print(
            f"{kind.key}: {figures['sent']:.0f} packets of {bench.flows.count} flows, {stun}% STUN, "
            f"{figures['packets_per_s']:.0f}/s; {figures['per_sink_min']:.0f} to "
            f"{figures['per_sink_max']:.0f} at each transceiver; relay "
            f"{figures['relay_us']:.2f} µs a packet; "
            + (f"WRONG: {wrong}" if wrong else "none lost, doubled, reordered or misdelivered")
        )
    return 1 if failed else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python bench/relay", description=__doc__)
    keys = [contender.key for contender in CONTENDERS]
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round of short windows")
    parser.add_argument("--only", nargs="+", choices=keys, metavar="KEY", help=", ".join(keys))
    parser.add_argument("--flows", type=int, default=1000)
    parser.add_argument("--stun", type=int, help="percent of Binding requests (0; check: 10)")
    parser.add_argument("--relay-cpu", type=int, default=0)
    parser.add_argument("--load-cpu", type=int, default=1)
    parser.add_argument("--window", type=int, help="packets under way when saturated")
    parser.add_argument("--phases", nargs="+", choices=report.PHASES, default=report.PHASES)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--check", type=int, metavar="PACKETS", help="only prove that none is lost")
    parser.add_argument("--check-rate", type=float, default=150_000, help="packets/s at most")
    parser.add_argument(
        "--relay-set", nargs="+", default=[], metavar="NAME=JSON", help="fields of RelaySettings"
    )
    options = parser.parse_args()
    if options.quick:
        options.rounds = 1
    return options


def main() -> int:
    options = arguments()
    OursPortable.relay_settings = {
        name: json.loads(value)
        for name, _, value in (text.partition("=") for text in options.relay_set)
    }
    cpus = os.sched_getaffinity(0)
    if not {options.relay_cpu, options.load_cpu} <= cpus:
        raise SystemExit(f"--relay-cpu and --load-cpu must be among {sorted(cpus)}")
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as folder:
        programs = Path(folder)
        build(programs)
        flows = Flows(options.flows, free_udp_port())
        bench = Bench(programs / "loadgen", programs, options.load_cpu, flows)
        if options.check:
            return check(options, bench, programs)
        options.stun = options.stun or 0
        return compare(options, bench, programs)


if __name__ == "__main__":
    sys.exit(main())
