"""From runs to the answer: medians, the table, the targets, the JSON file."""

import json
import os
import platform
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

Runs = dict[str, dict[str, list[dict[str, float]]]]  # contender -> phase -> figures of each run

PHASES = SATURATED, EVERYDAY, LONE = "saturated", "everyday", "lone"
_HEAD = (
    "| relay | saturated: relay µs | whole path µs | packets/s | 20k/s: relay µs | whole path µs "
    "| one way p50 / p99 / p99.9 µs | added p50 / p99 / p99.9 µs | lone packet p50 µs | lost |"
)


def middle(runs: Runs, contender: str, phase: str, name: str) -> float | None:
    """The median over the runs; None when it was not measured."""
    values = [run[name] for run in runs.get(contender, {}).get(phase, []) if name in run]
    return median(values) if values else None


def ratio(runs: Runs, one: str, other: str, phase: str, name: str) -> float | None:
    """The median over the rounds of one contender's figure by the other's in the same round."""
    pairs = zip(runs.get(one, {}).get(phase, []), runs.get(other, {}).get(phase, []), strict=False)
    ratios = [a[name] / b[name] for a, b in pairs if name in a and b.get(name)]
    return median(ratios) if ratios else None


def table(titles: dict[str, str], runs: Runs, missing: dict[str, str]) -> str:
    """Markdown; contenders in the order given."""
    lines = [_HEAD, "|---" * 10 + "|"]
    for key, title in titles.items():
        if key in missing:
            lines.append(f"| {title} | {missing[key]} |" + " |" * 8)
            continue

        def cell(phase: str, name: str, digits: int = 2, key: str = key) -> str:
            value = middle(runs, key, phase, name)
            return "" if value is None else f"{value:.{digits}f}"

        latency = [cell(EVERYDAY, name, 0) for name in ("p50_us", "p99_us", "p999_us")]
        added = [_added(runs, key, name) for name in ("p50_us", "p99_us", "p999_us")]
        rate = middle(runs, key, SATURATED, "packets_per_s")
        lost = sum(run["lost"] for phase in runs[key].values() for run in phase)
        cells = (
            cell(SATURATED, "relay_us"),
            cell(SATURATED, "path_us"),
            "" if rate is None else f"{rate / 1000:.0f}k",
            cell(EVERYDAY, "relay_us"),
            cell(EVERYDAY, "path_us"),
            " / ".join(latency),
            " / ".join(added),
            cell(LONE, "p50_us", 0),
            f"{lost:.0f}",
        )
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _added(runs: Runs, key: str, name: str) -> str:
    """Above no relay at all, of the same run."""
    mine, limit = middle(runs, key, EVERYDAY, name), middle(runs, "none", EVERYDAY, name)
    if mine is None or limit is None:
        return "?"
    return "0" if key == "none" else f"{mine - limit:.0f}"


class Target(NamedTuple):
    """`theirs`: the limit is a ratio, else absolute. `added`: figures above no relay at all."""

    ours: str
    theirs: str | None
    phase: str
    name: str
    limit: float
    added: bool = False


TARGETS = [
    Target("portable", "c_loop", SATURATED, "relay_us", 0.7),
    Target("portable", "coturn", SATURATED, "relay_us", 0.4),
    Target("portable", "nginx", SATURATED, "relay_us", 0.4),
    Target("portable", "c_loop", EVERYDAY, "relay_us", 0.5),
    Target("portable", None, EVERYDAY, "p99_us", 400, added=True),
    Target("portable", "c_loop", LONE, "p50_us", 1.0),
    Target("steering", "portable", EVERYDAY, "path_us", 0.5),
    Target("steering", None, EVERYDAY, "p50_us", 5, added=True),
    Target("steering", "c_loop", EVERYDAY, "p50_us", 0.5, added=True),
    Target("steering", "c_loop", EVERYDAY, "p99_us", 0.5, added=True),
]


def targets(runs: Runs) -> list[str]:
    """One line for each target that could be judged."""
    lines = []
    for target in TARGETS:
        value = _reached(runs, target)
        if value is not None:
            what = f"{target.name} {target.phase}, {target.ours}"
            what += f" by {target.theirs}" if target.theirs else ""
            what += ", above no relay" if target.added else ""
            verdict = "met" if value <= target.limit else "NOT met"
            lines.append(f"{what}: {value:.2f} (at most {target.limit}): {verdict}")
    return lines


def _reached(runs: Runs, target: Target) -> float | None:
    ours, theirs, phase, name, _, added = target
    if not added:
        if theirs is None:
            return middle(runs, ours, phase, name)
        return ratio(runs, ours, theirs, phase, name)
    none, mine = middle(runs, "none", phase, name), middle(runs, ours, phase, name)
    if none is None or mine is None:
        return None
    if theirs is None:
        return mine - none
    other = middle(runs, theirs, phase, name)
    return (mine - none) / (other - none) if other is not None and other > none else None


def noise(runs: Runs) -> str:
    """How much of the machine others took meanwhile."""
    found = [
        run["others"] for phases in runs.values() for windows in phases.values() for run in windows
    ]
    if not found:
        return ""
    return (
        f"Other processes used {median(found):.2f} cores (median over all windows, "
        f"{min(found):.2f} to {max(found):.2f})."
    )


def summary(
    titles: dict[str, str], runs: Runs, missing: dict[str, str], options: dict[str, Any]
) -> dict[str, Any]:
    """Everything, for bench/results/relay.json: median, min, max and each run."""
    contenders: dict[str, Any] = {}
    for key, title in titles.items():
        if key in missing:
            contenders[key] = {"title": title, "missing": missing[key]}
            continue
        phases = {}
        for phase, figures in runs[key].items():
            phases[phase] = {
                name: {
                    "median": round(median(values), 3),
                    "min": round(min(values), 3),
                    "max": round(max(values), 3),
                    "runs": [round(value, 3) for value in values],
                }
                for name in figures[0]
                if (values := [run[name] for run in figures if name in run])
            }
        contenders[key] = {"title": title, "phases": phases}
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {
            "cores": os.cpu_count(),
            "kernel": ".".join(platform.release().split(".")[:2]),
            "python": platform.python_version(),
        },
        "options": options,
        "noise": noise(runs),
        "targets": targets(runs),
        "contenders": contenders,
    }


def write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
