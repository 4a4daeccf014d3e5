"""From the numbers tried to the answer: a table and the JSON file. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bench.capacity.judge import Point

HEAD = (
    "| | calls held | per server core | by stock | CPU of a call, µs/s, few calls → at the limit "
    "| late p99 | memory of a call | what the next step had |"
)


def summary(
    titles: Mapping[str, str],
    points: Mapping[str, Sequence[Point]],
    missing: Mapping[str, str],
    cores: Mapping[str, Sequence[int]],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything, for bench/results/capacity.json. cores: {"server": …, "callers": …}."""
    server = len(cores["server"])
    found = {}
    for key, tried in points.items():
        held = sorted((point for point in tried if point.held), key=lambda point: point.calls)
        last = held[-1] if held else None
        found[key] = {
            "title": titles[key],
            "calls": limit_of(tried),
            "calls_per_server_core": round(limit_of(tried) / server, 1),
            "cost_us_first": round(held[0].cost_us) if held else None,
            "cost_us_last": round(last.cost_us) if last else None,
            "late_p99_ms": round(last.late_p99_ms, 2) if last else None,
            "rss_kib_per_call": round(_memory(held)) if len(held) > 1 else None,
            "stopped_by": stopped_by(tried),
            "points": [asdict(point) | {"held": point.held} for point in tried],
        }
    return {
        "cores": {name: list(those) for name, those in cores.items()},
        "about": dict(about),
        "missing": dict(missing),
        "contenders": found,
    }


def compare(content: dict[str, Any], twins: Mapping[str, str]) -> None:
    """How many times each contender's twin, the stock one that does the same, it holds."""
    found = content["contenders"]
    for key, one in found.items():
        stock = found[twins[key]]["calls"] if twins[key] in found else 0
        one["by_stock"] = round(one["calls"] / stock, 2) if stock else None


def limit_of(points: Sequence[Point]) -> int:
    """The largest number held; 0 when none was."""
    return max((point.calls for point in points if point.held), default=0)


def stopped_by(points: Sequence[Point]) -> str:
    """What the smallest number that failed had; time, or steps, when none did."""
    failed = [point for point in points if not point.held]
    if not failed:
        return "no step failed: the search ended first"
    return "; ".join(min(failed, key=lambda point: point.calls).why_not)


def _memory(held: Sequence[Point]) -> float:
    """KiB of each call between the fewest and the most."""
    first, last = held[0], held[-1]
    return (last.rss_bytes - first.rss_bytes) / max(1, last.calls - first.calls) / 1024


def table(content: Mapping[str, Any]) -> str:
    lines = [HEAD, "|---" * 8 + "|"]
    for one in content["contenders"].values():
        by = f"{one['by_stock']:.1f} times" if one["by_stock"] else ""
        held = one["calls"] > 0
        costs = f"{one['cost_us_first']} → {one['cost_us_last']}" if held else ""
        late = f"{one['late_p99_ms']} ms" if held else ""
        memory = f"{one['rss_kib_per_call']} KiB" if one["rss_kib_per_call"] is not None else ""
        lines.append(
            f"| {one['title']} | {one['calls']} | {one['calls_per_server_core']:.0f} | {by} | {costs} "
            f"| {late} | {memory} | {one['stopped_by']} |"
        )
    lines += [f"| {key} | not here: {why} |" + " |" * 6 for key, why in content["missing"].items()]
    cores = content["cores"]
    return "\n".join(
        [
            *lines,
            "",
            f"Servers have core {_names(cores['server'])}, callers {_names(cores['callers'])}.",
        ]
    )


def _names(cores: Sequence[int]) -> str:
    return ", ".join(map(str, cores))
