"""From one host to many: `python bench/scaling`. Sizes from bench/results, ingress by simulation.

With --write the tables of docs/scaling.md are made anew.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[0] = str(ROOT)

from bench.scaling.ingress import INGRESS, OWN_ADDRESS, change, rolling_upgrade
from bench.scaling.sizing import HEADROOM, host, measured

PAGE = ROOT / "docs" / "scaling.md"
HOSTS = (1, 100, 10_000)
CORES = (2, 16, 64)
MEAN_CALL_S = 180.0
SIMULATED = (10, 100)  # hosts behind one address
CALLS = 20_000
EVENTS = ("loss", "drain", "join")
UPGRADES = ((100, 1, 600.0), (100, 10, 600.0), (10_000, 100, 600.0), (10_000, 1000, 300.0))
RESTART_S = 10.0


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def sizes() -> str:
    parts = measured()
    one = [host(parts, cores, MEAN_CALL_S) for cores in CORES]
    hosts = table(
        ["cores", "calls", "cores for relays", "memory of calls", "network, each way", "set-ups/s"],
        [
            [
                str(h.cores),
                f"{h.calls:,}",
                f"{h.relay_cores:.2f}",
                f"{h.memory_gb:.2f} GB",
                f"{h.mbit_each_way:.0f} Mbit/s",
                f"{h.setups_per_s:.1f}",
            ]
            for h in one
        ],
    )
    fleet = host(parts, 16, MEAN_CALL_S)
    fleets = table(
        ["hosts of 16 cores", "calls", "set-ups/s", "one flow table of all", "checks/s"],
        [
            [
                f"{n:,}",
                f"{n * fleet.calls:,}",
                f"{n * fleet.setups_per_s:,.0f}",
                f"{n * fleet.calls * parts.record_bytes / 1e9:.2f} GB",
                f"{n * fleet.calls / 2.5:,.0f}",
            ]
            for n in HOSTS
        ],
    )
    inputs = (
        f"Measured: {parts.call_frame_us:.0f} µs of CPU for 20 ms of a call that talks both ways, "
        f"{parts.relay_packet_us:.2f} µs in a relay for a packet at 20,000 packets/s, "
        f"{parts.setup_us:,.0f} µs for a set-up, {parts.call_kb:.0f} KB for a call. "
        f"Calls last {MEAN_CALL_S:.0f} s; {HEADROOM:.0%} of a host is used."
    )
    return "\n\n".join((inputs, hosts, fleets))


def ingress() -> str:
    rows = []
    for hosts in SIMULATED:
        for event in EVENTS:
            for kind in INGRESS:
                for cached in (False, True):
                    if kind == OWN_ADDRESS and cached:
                        continue
                    seen = change(kind, hosts, CALLS, event, cached)
                    rows.append(
                        [
                            str(hosts),
                            event,
                            kind + (", flow cache" if cached else ""),
                            f"{seen.lost:.1%}",
                            f"{seen.moved:.1%}",
                            f"{seen.hop_after:.1%}",
                            f"{seen.silence_p50_ms:.0f} / {seen.silence_p99_ms:.0f} ms",
                        ]
                    )
    head = [
        "hosts",
        "event",
        "ingress",
        "calls lost",
        "moved",
        "packets with a hop",
        "silence of the moved, p50 / p99",
    ]
    return table(head, rows)


def upgrades() -> str:
    rows = []
    for hosts, batch, deadline_s in UPGRADES:
        seen = rolling_upgrade(hosts, batch, deadline_s, MEAN_CALL_S, RESTART_S)
        rows.append(
            [
                f"{hosts:,}",
                f"{batch:,}",
                f"{deadline_s:.0f} s",
                f"{seen.minutes / 60:.1f} h",
                f"{seen.capacity_left:.0%}",
                f"{seen.ended:.2%}",
            ]
        )
    return table(
        ["hosts", "at a time", "deadline", "takes", "capacity left", "calls cut short"], rows
    )


PARTS = {"sizes": sizes, "ingress": ingress, "upgrades": upgrades}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help="some of the tables only")
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.relative_to(ROOT)}")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"{', '.join(sorted(unknown))}: give {', '.join(PARTS)}")
    text = PAGE.read_text()
    for name in options.parts or PARTS:
        try:
            made = PARTS[name]()
        except FileNotFoundError as exc:
            sys.exit(f"{name}: {exc}")
        print(f"\n{made}")
        head, begin, rest = text.partition(f"<!-- {name}:begin -->\n")
        _, end, tail = rest.partition(f"<!-- {name}:end -->")
        text = head + begin + made + "\n" + end + tail
    if options.write:
        PAGE.write_text(text)


if __name__ == "__main__":
    main()
