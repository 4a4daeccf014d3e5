"""Compares voice paths: `python bench/voice`. One run: CPU of a call, calls held on one core, loss."""

import argparse
import contextlib
import math
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[0] = str(ROOT)

from bench.voice import loss, plot, report
from bench.voice.contenders import CONTENDERS, OURS, OURS_EARS, STOCK_EARS, Cores
from bench.voice.measure import floor, talk, talk_between_floors
from tests.support.server import ServerError

RESULTS, PICTURES = ROOT / "bench" / "results", ROOT / "docs"
PARTS = COST, HOLD, LOSS = "cost", "hold", "loss"
STATED = 0.8  # of the computed calls per core
HOLDS = 3  # times; the median counts


def measure_costs(
    options: argparse.Namespace, cores: Cores
) -> tuple[report.Rounds, dict[str, str]]:
    """Round after round of the floor and every contender."""
    rounds: report.Rounds = {}
    missing: dict[str, str] = {}
    for number in range(options.rounds):
        rounds.setdefault(report.FLOOR, []).append(floor(options.calls or OURS.calls, cores))
        _progress(number, report.FLOOR, rounds[report.FLOOR][-1], ("floor_us", "encode", "decode"))
        for contender in CONTENDERS:
            if contender.key in missing or contender.key not in options.only:
                continue
            ours = contender.calls == OURS.calls
            calls = options.calls if ours and options.calls else contender.calls
            try:
                figures = talk_between_floors(contender, calls, options.seconds, cores)
            except ServerError as exc:
                missing[contender.key] = str(exc).strip().rpartition("\n")[2]
                print(f"{contender.key}: {exc}", file=sys.stderr)
                continue
            rounds.setdefault(contender.key, []).append(figures)
            _progress(number, contender.key, figures)
    return rounds, missing


def measure_holds(options: argparse.Namespace, cores: Cores, costs: report.Rounds) -> report.Rounds:
    """As many calls as STATED says, really held."""
    rounds: report.Rounds = {}
    for contender in CONTENDERS:
        if contender.key not in options.hold:
            continue
        calls = options.hold_calls
        if not calls:
            per_core = report.middle(costs, contender.key, "calls_per_core")
            if per_core is None:
                continue
            calls = math.floor(per_core * STATED)
        for number in range(HOLDS):
            try:
                figures = talk(contender, calls, options.hold_seconds, cores)
            except ServerError as exc:
                print(f"{contender.key} held: {exc}", file=sys.stderr)
                continue
            rounds.setdefault(contender.key, []).append(figures)
            _progress(number, f"{contender.key} held", figures)
    return rounds


def _progress(
    number: int, key: str, figures: dict[str, float], names: tuple[str, ...] = ()
) -> None:
    names = names or (
        "calls",
        "frame_us",
        "floors",
        "busy",
        "rate_in_min",
        "late_p99_ms",
        "jitter_p99_ms",
        "skipped",
        "rss_kb_per_call",
        "likeness",
        "caller_lag_p99_ms",
    )
    shown = [f"{name} {figures[name]:.2f}" for name in names if name in figures]
    print(f"{number + 1} {key:<16}", *shown, file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python bench/voice", description=__doc__)
    keys = [contender.key for contender in CONTENDERS]
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round of short talks")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--only", nargs="+", choices=keys, default=keys, metavar="KEY")
    parser.add_argument("--calls", type=int, help=f"at which ours is measured ({OURS.calls})")
    parser.add_argument("--seconds", type=float, default=5.0, help="of talk")
    parser.add_argument("--hold", nargs="+", choices=keys, default=["ours"], metavar="KEY")
    parser.add_argument(
        "--hold-calls", type=int, help=f"instead of {STATED * 100:.0f} %% of the computed"
    )
    parser.add_argument("--hold-seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1, help="of the bad networks")
    parser.add_argument("--tested-cpu", type=int, default=0)
    parser.add_argument("--others-cpu", type=int, default=1)
    parser.add_argument(
        "--priority", type=int, default=0, help="niceness, below 0 where others use the machine"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.hold_seconds = 1, 2.0, 5.0
    return options


def main() -> int:
    options = arguments()
    cores = Cores(options.tested_cpu, options.others_cpu, options.priority)
    if not {cores.tested, cores.others} <= os.sched_getaffinity(0):
        raise SystemExit("--tested-cpu and --others-cpu must be cores of this process")
    if cores.priority:
        # Where the kernel groups processes by session, a niceness counts only within its group.
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(cores.priority))
    began = time.monotonic()
    titles = {c.key: c.title for c in CONTENDERS if c.key in options.only}
    costs, missing = measure_costs(options, cores) if COST in options.parts else ({}, {})
    holds = measure_holds(options, cores, costs) if HOLD in options.parts else {}
    losses: report.Losses = {}
    if LOSS in options.parts:
        scale = 0.5 if options.quick else 1.0
        for contender in (OURS_EARS, STOCK_EARS):
            losses[contender.key] = loss.measure(contender, cores, options.seed, scale)
    if costs:
        print(report.cost_table(titles, costs, missing))
        print("\n" + report.floor_line(costs) + "\n")
    if losses:
        print(report.loss_table(losses))
    print("\n".join(report.doubts(costs) + report.doubts(holds)))
    print("\n".join(report.targets(costs, holds, losses)))
    kept = {name: getattr(options, name) for name in ("rounds", "seconds", "hold_seconds", "seed")}
    content = report.summary(titles, costs, holds, losses, kept | {"quick": options.quick})
    if set(options.parts) == set(PARTS):
        report.write(options.results / "voice.json", content)
        pictures = PICTURES if options.results == RESULTS else options.results
        print(plot.draw(content, pictures / "voice.png"), file=sys.stderr)
    print(f"took {time.monotonic() - began:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
