"""What a soak was to show and what it showed. Pure."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from bench.faults.verdict import Check, at_most, exactly
from bench.soak.books import Balance, Books, outside
from bench.soak.run import Seen
from bench.soak.trend import HOUR_S, growth
from bench.soak.watch import FIGURES, ROLES

UNIT = {"rss_mib": "MiB", "fds": "", "threads": ""}
SLACK = {"rss_mib": 2.0, "fds": 2.0, "threads": 1.0}  # over the run, of each process
MOST_RSS_MIB_PER_H = 1.0  # of a run so long that it is more than the slack
WAKE_UP_PACKETS = 64 * 40  # relay/loop.py: MAX_DRAIN of MAX_LOOKS
UNSEEN_PERCENT = 0.1
NEAR_S = (
    21.0  # after a fault set-ups may fail: the callers' patience with ICE and DTLS, and one more
)
THINNED = 10  # of the samples that are kept in the file


def checks(seen: Seen, whole: Balance, alive: set[int]) -> list[Check]:
    """alive: the processes of the end."""
    return [*growths(seen), *accounts(seen.watch.books, whole, alive), *calls(seen)]


def growths(seen: Seen) -> list[Check]:
    found = []
    for figure in FIGURES:
        for role in ROLES:
            grown = growth(seen.watch.lives(role, figure))
            if grown is None:
                continue
            slack = SLACK[figure]
            if figure == "rss_mib":
                slack = max(slack, MOST_RSS_MIB_PER_H * seen.took_s / HOUR_S)
            name = f"{role}: {figure.removesuffix('_mib').upper()} grown"
            slope = f"{grown.slope:+.2f} ± {grown.error:.2f} {UNIT[figure]}/h".replace(" /h", "/h")
            most = round(slack + grown.uncertain_over(seen.took_s), 2)
            found.append(at_most(f"{name} ({slope})", grown.over(seen.took_s), most, UNIT[figure]))
    sizes = [size for _, size in seen.watch.shm]
    found.append(exactly("shared memory grown", max(sizes) - min(sizes), 0, "bytes"))
    return found


def accounts(books: Books, whole: Balance, alive: set[int]) -> list[Check]:
    relays = books.of("relay")
    quiet = [abs(life.unaccounted) for life in relays if life.key.pid in alive]
    dead = [abs(life.unaccounted) for life in relays if life.key.pid not in alive]
    unseen, inside = whole.share(whole.missing), whole.share(whole.missing_inside)
    return [
        exactly("relays at the end: packets without a reason", max(quiet, default=0), 0),
        at_most("relays killed: the same, of one", max(dead, default=0), WAKE_UP_PACKETS),
        at_most(f"sent and seen by nobody ({whole.missing})", unseen, UNSEEN_PERCENT, "%"),
        at_most(f"lost inside ({whole.missing_inside})", inside, UNSEEN_PERCENT, "%"),
    ]


def calls(seen: Seen) -> list[Check]:
    at = [at_s for at_s, _, _ in seen.done]
    return [
        at_most(
            "calls lost (at most those of killed transceivers)", seen.dropped.total(), seen.doomed
        ),
        exactly("set-ups failed without a fault near", outside(seen.failed_at, at, NEAR_S), 0),
        exactly("killed and not replaced", len(seen.not_replaced), 0),
        exactly("killed processes whose counters were not read", seen.unread, 0),
        exactly("seconds without a status", seen.watch.missed, 0),
    ]


def table(found: list[Check]) -> str:
    lines = ["| what | target | measured | |", "|---|---|---|---|"]
    lines += [
        f"| {one.what} | {one.target} | {one.seen} | {'met' if one.met else '**missed**'} |"
        for one in found
    ]
    return "\n".join(lines)


def headline(seen: Seen, whole: Balance) -> str:
    hits: dict[str, int] = {}
    for _, kind, _ in seen.done:
        hits[kind] = hits.get(kind, 0) + 1
    told = ", ".join(f"{count} × {kind}" for kind, count in sorted(hits.items())) or "none"  # noqa: RUF001
    return (
        f"{seen.took_s / 60:.1f} min, {seen.connected} of {seen.asked} calls connected, "
        f"{seen.failed.total()} failed, {seen.dropped.total()} lost; "
        f"{whole.sent} datagrams sent; faults: {told}"
    )


def as_json(
    seen: Seen, whole: Balance, found: list[Check], options: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "options": dict(options),
        "took_s": round(seen.took_s, 1),
        "calls": {
            "asked": seen.asked,
            "connected": seen.connected,
            "failed": dict(seen.failed),
            "lost": dict(seen.dropped),
        },
        "faults": seen.done,
        "balance": asdict(whole),
        "checks": [
            {"what": one.what, "target": one.target, "measured": one.seen, "met": one.met}
            for one in found
        ],
        "lives": [
            {**life.key._asdict(), "from_s": round(life.first_s), "to_s": round(life.last_s)}
            | {"figures": life.figures}
            for life in seen.watch.books.lives.values()
        ],
        "series": [
            key._asdict()
            | {
                name: [(round(t), round(y, 2)) for t, y in kept[name][::THINNED]]
                for name in FIGURES
            }
            for key, kept in seen.watch.series.items()
        ],
        "sessions": [(round(at_s), count) for at_s, count in seen.watch.sessions[::THINNED]],
    }
