"""A long run under churn and faults: `python bench/soak --minutes 30 --load 0.7 --seed 1`.

Callers come and go at a share of a given number of calls; relays and control are killed or stopped at times that
the seed decides; each second a sample. At the end: do memory and descriptors grow, and where did every packet go.
Exit code 1 when a target is missed.
"""

import argparse
import asyncio
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[0] = str(ROOT)

from bench.soak import report
from bench.soak.books import balance
from bench.soak.plan import KINDS, WITH_TRANSCEIVERS, plan_faults
from bench.soak.run import Terms, close, soak
from bench.soak.watch import keys
from tests.support.server import server

RESULTS = ROOT / "bench" / "results"
CAPACITY = RESULTS / "capacity.json"
USUAL_CALLS = 60
RELAYS = TRANSCEIVERS = 2


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python bench/soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--load", type=float, default=0.7, help="share of --of")
    parser.add_argument(
        "--of", type=int, metavar="CALLS", help=f"[what bench/capacity found, else {USUAL_CALLS}]"
    )
    parser.add_argument("--seed", type=int, default=1, help="of calls and faults")
    parser.add_argument("--steering", choices=("auto", "on", "off"), default="off")
    parser.add_argument("--app", help="agent instead of the demo's echo, as MODULE:NAME")
    parser.add_argument("--talk", type=float, default=0.5, help="share of the time callers speak")
    parser.add_argument("--rate", type=float, default=10.0, help="calls begun a second, at most")
    parser.add_argument("--round", type=float, default=180.0, help="seconds, then all begin anew")
    parser.add_argument("--fault-every", type=float, default=90.0, help="seconds, on average")
    parser.add_argument("--kill-transceivers", action="store_true", help="their calls are lost")
    parser.add_argument("--write", action="store_true", help="keep the figures in results/")
    return parser.parse_args()


def limit() -> int:
    """Calls that this host was found to hold."""
    try:
        found: int = json.loads(CAPACITY.read_text())["contenders"]["portable"]["calls"]
    except (OSError, ValueError, KeyError):
        return USUAL_CALLS
    return found or USUAL_CALLS


def main() -> int:
    options = arguments()
    calls = max(1, round(options.load * (options.of or limit())))
    duration_s = 60 * options.minutes
    terms = Terms(calls, duration_s, options.round, options.rate, options.talk, options.seed)
    kinds = WITH_TRANSCEIVERS if options.kill_transceivers else KINDS
    planned = plan_faults(options.seed, duration_s, options.fault_every, kinds, RELAYS)
    print(f"{calls} calls, {options.minutes:g} min, {len(planned)} faults", file=sys.stderr)
    extra = ["--log-level", "warning", "--steering", options.steering]
    with server(relays=RELAYS, transceivers=TRANSCEIVERS, app=options.app, extra=extra) as running:
        seen = asyncio.run(soak(running, terms, planned))
        last = close(seen)
    whole = balance(seen.sent, seen.watch.books, last)
    found = report.checks(seen, whole, {key.pid for key in keys(last)})
    print(report.headline(seen, whole) + "\n")
    print(report.table(found))
    if options.write:
        kept = report.as_json(seen, whole, found, vars(options) | {"calls": calls})
        (RESULTS / "soak.json").write_text(json.dumps(kept) + "\n")
    return int(not all(check.met for check in found))


if __name__ == "__main__":
    sys.exit(main())
