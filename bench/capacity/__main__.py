"""How many calls this host holds, ours and stock aiortc's: `python bench/capacity`, about ten minutes.

Calls come until frames are late: 50 frames/s each way at every call, lateness p99 at most 5 ms by the servers' own
figures, the callers not late themselves. Callers have a core of their own, the servers the others. Encoding is the
same at every load (complexity 5, FEC), as in bench/voice; stock has aiortc's own. The kernel's work for packets on
loopback is the sender's, so what callers send costs the callers' core.
"""

import argparse
import contextlib
import json
import os
import platform
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[0] = str(ROOT)

from bench.capacity import plot, report
from bench.capacity.contenders import CONTENDERS
from bench.capacity.judge import Point
from bench.capacity.measure import Terms, find_limit, progress
from bench.capacity.search import Search
from tests.support.server import ServerError

RESULTS = ROOT / "bench" / "results"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python bench/capacity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    keys = [contender.key for contender in CONTENDERS]
    parser.add_argument("--only", nargs="+", choices=keys, default=keys, metavar="KEY")
    parser.add_argument("--seconds", type=float, default=6.5, help="of each window, at least 6")
    parser.add_argument("--rate", type=float, default=10.0, help="calls begun a second")
    parser.add_argument("--start", type=int, default=10, help="calls of the first step")
    parser.add_argument("--most", type=int, default=10_000, help="calls of the last step")
    parser.add_argument("--looks", type=int, default=14, help="steps of each contender, at most")
    parser.add_argument("--limit", type=float, default=165.0, help="seconds of each contender")
    parser.add_argument("--caller-cores", type=int, default=1, help="the last of this host's")
    parser.add_argument(
        "--priority", type=int, default=0, help="niceness of all, below 0 where others use the host"
    )
    parser.add_argument("--quick", action="store_true", help="a trial: few calls, short windows")
    parser.add_argument(
        "--write",
        action="store_true",
        help="keep figures and picture in results/; with --only beside the others'",
    )
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.most, options.looks, options.limit = 2.0, 15, 2, 15.0
    return options


def split_cores(wanted: int) -> tuple[list[int], list[int]]:
    """(the servers', the callers'): each has at least one."""
    cores = sorted(os.sched_getaffinity(0))
    if not 0 < wanted < len(cores):
        raise SystemExit(f"--caller-cores: the servers need one of the {len(cores)} cores too")
    return cores[:-wanted], cores[-wanted:]


def main() -> int:
    options = arguments()
    ours, theirs = split_cores(options.caller_cores)
    os.sched_setaffinity(0, theirs)  # those that are started get their cores by name
    if options.priority:
        os.setpriority(os.PRIO_PROCESS, 0, options.priority)
        # Where the kernel groups processes by session, a niceness counts only within its group.
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(options.priority))
    terms = Terms(ours, theirs, options.seconds, options.rate, options.limit)
    points: dict[str, list[Point]] = {}
    missing: dict[str, str] = {}
    began = time.monotonic()
    for contender in CONTENDERS:
        if contender.key not in options.only:
            continue
        search = Search(options.start, max_looks=options.looks, ceiling=options.most)
        try:
            points[contender.key] = find_limit(contender, search, terms, progress(contender))
        except ServerError as exc:
            missing[contender.key] = str(exc).strip().rpartition("\n")[2]
    about = {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "took_s": round(time.monotonic() - began),
        "kernel": ".".join(platform.release().split(".")[:2]),
        "python": platform.python_version(),
        "seconds": options.seconds,
        "quick": options.quick,
    }
    titles = {contender.key: contender.title for contender in CONTENDERS}
    cores = {"server": ours, "callers": theirs}
    content = report.summary(titles, points, missing, cores, about)
    kept = RESULTS / "capacity.json"
    if options.write and len(options.only) < len(CONTENDERS) and kept.exists():
        found = json.loads(kept.read_text())["contenders"] | content["contenders"]
        content["contenders"] = {key: found[key] for key in titles if key in found}
    report.compare(content, {contender.key: contender.twin for contender in CONTENDERS})
    print(report.table(content))
    if options.write:
        kept.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        print(plot.draw(content, RESULTS / "capacity.png"), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
