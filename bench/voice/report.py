"""From rounds to the answer: medians, tables, targets, the JSON file."""

import json
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from bench.voice.loss import Heard

Rounds = dict[str, list[dict[str, float]]]  # contender -> figures of each round
Losses = dict[str, dict[str, list[Heard]]]  # contender -> network -> calls

FLOOR = "floor"
SOUND_RATE = 47.0  # frames/s, of 50
SOUND_LAG_MS = 10.0
_COST_HEAD = (
    "| | µs per 20 ms of a call | calls per core | by the floor | relay µs | frames/s, least "
    "| pacer late p99 ms | seen late p99 ms | KB per call | threads | alike |"
)
_LOSS_HEAD = "| network | audible | right | delay before / during / after, ms | from FEC | made up | silent |"


def middle(rounds: Rounds, key: str, name: str) -> float | None:
    values = [figures[name] for figures in rounds.get(key, []) if name in figures]
    return median(values) if values else None


def ratio(rounds: Rounds, one: str, other: str, name: str, of_other: str = "") -> float | None:
    """The median over the rounds of one figure by another of the same round."""
    pairs = zip(rounds.get(one, []), rounds.get(other, []), strict=False)
    of_other = of_other or name
    ratios = [a[name] / b[of_other] for a, b in pairs if name in a and b.get(of_other)]
    return median(ratios) if ratios else None


def cost_table(titles: dict[str, str], rounds: Rounds, missing: dict[str, str]) -> str:
    lines = [_COST_HEAD, "|---" * 11 + "|"]
    for key, title in titles.items():
        if key in missing:
            lines.append(f"| {title} | {missing[key]} |" + " |" * 9)
            continue

        def cell(name: str, digits: int = 0, key: str = key) -> str:
            value = middle(rounds, key, name)
            return "" if value is None else f"{value:.{digits}f}"

        cells = (
            cell("frame_us"),
            cell("calls_per_core"),
            cell("floors", 2),
            cell("relay_us"),
            cell("rate_in_min", 1),
            cell("late_p99_ms", 1),
            cell("jitter_p99_ms", 1),
            cell("rss_kb_per_call"),
            cell("threads"),
            cell("likeness", 2),
        )
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def floor_line(rounds: Rounds) -> str:
    parts = ("encode", "decode", "unprotect", "protect")
    found = {
        name: middle(rounds, FLOOR, name) or 0.0 for name in (*parts, "py_unprotect", "py_protect")
    }
    python = found["py_unprotect"] + found["py_protect"] - found["unprotect"] - found["protect"]
    shown = ", ".join(f"{name} {found[name]:.1f}" for name in parts)
    total, paced = (middle(rounds, FLOOR, name) or 0.0 for name in ("floor_us", "paced_us"))
    return (
        f"Floor: {total:.0f} µs in one loop ({shown}), {paced:.0f} µs with every call in its own time; "
        f"pylibsrtp around libsrtp {python:+.1f} µs, not in it."
    )


def loss_table(losses: Losses) -> str:
    lines = []
    for key, networks in losses.items():
        lines += [f"{key}:", "", _LOSS_HEAD, "|---" * 7 + "|"]
        for network, heard in networks.items():
            delays = [mean(heard, f"{span}_ms") for span in ("before", "during", "after")]
            repairs = [mean(heard, f"{name}_ms") for name in ("recovered", "concealed", "silent")]
            cells = [
                f"{100 * (mean(heard, 'audible') or 0):.1f} %",
                f"{100 * (mean(heard, 'right') or 0):.0f} %"
                + ("" if all(h.in_order for h in heard) else " NOT IN ORDER"),
                " / ".join(f"{delay:.0f}" for delay in delays if delay is not None),
                *("" if value is None else f"{value:.0f} ms" for value in repairs),
            ]
            lines.append(f"| {network} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def mean(heard: list[Heard], name: str) -> float | None:
    values = [value for each in heard if (value := getattr(each, name)) is not None]
    return sum(values) / len(values) if values else None


def _verdict(what: str, value: float | None, limit: float, most: bool, unit: str = "") -> list[str]:
    if value is None:
        return []
    met = value <= limit if most else value >= limit
    bound = "at most" if most else "at least"
    return [f"{what}: {value:.2f}{unit} ({bound} {limit:g}): {'met' if met else 'NOT met'}"]


def doubts(rounds: Rounds) -> list[str]:
    """Contenders that had no core to themselves: what they did not do cost them nothing."""
    lines = []
    for key in rounds:
        rate, lag_ms = middle(rounds, key, "rate_in_min"), middle(rounds, key, "caller_lag_p99_ms")
        if rate is not None and rate < SOUND_RATE:
            lines.append(f"{key}: DOUBTFUL, a call got {rate:.1f} frames/s")
        if lag_ms is not None and lag_ms > SOUND_LAG_MS:
            lines.append(f"{key}: DOUBTFUL, its callers were {lag_ms:.0f} ms behind their plan")
    return lines


def targets(costs: Rounds, holds: Rounds, losses: Losses) -> list[str]:
    """One line for each target that could be judged."""
    lines = []
    for ours, theirs, least in (("ours", "stock", 3.0), ("ours_echo", "stock_echo", 5.0)):
        # By the floor beside each, for the machine's speed has changed between them.
        value = ratio(costs, theirs, ours, "floors")
        lines += _verdict(f"calls per core, {ours} by {theirs}", value, least, most=False)
    for ours in ("ours", "ours_echo"):
        value = middle(costs, ours, "floors")
        lines += _verdict(f"CPU per frame, {ours} by the floor", value, 1.25, most=True)
        paced = ratio(costs, FLOOR, FLOOR, "paced_us", "floor_us")
        if value is not None and paced is not None:
            lines.append(
                f"CPU per frame, {ours} by the floor with every call in its own time: {value / paced:.2f}"
            )
    calls = middle(holds, "ours", "calls")
    if calls is not None:
        what = f"holding {calls:.0f} calls on one core: "
        for name, text in (("rate_in_min", "from us"), ("rate_out_min", "to us")):
            value = middle(holds, "ours", name)
            lines += _verdict(f"{what}frames/s {text}, least of a call", value, 49.5, most=False)
        for name, text in (("late_p99_ms", "by the pacer"), ("jitter_p99_ms", "by the callers")):
            value = middle(holds, "ours", name)
            lines += _verdict(f"{what}lateness p99 {text}", value, 5.0, most=True, unit=" ms")
    heard = losses.get("ours", {}).get("5 %", [])
    if heard:
        share = min(each.audible for each in heard) * 100
        lines += _verdict("5 % loss: slots filled, least of a call", share, 99.5, False, " %")
        later = max(each.after_ms - each.before_ms for each in heard)
        lines += _verdict("5 % loss: delay 1 s after, above before", later, 20.0, True, " ms")
    lines += _verdict("RSS", middle(costs, "ours", "rss_kb_per_call"), 200.0, True, " KB a call")
    if doubts(costs) or doubts(holds):
        lines = [f"{line}, but DOUBTFUL" for line in lines]
    lines.append("setups and leaks: see bench/setups.py")
    return lines


def summary(
    titles: dict[str, str],
    costs: Rounds,
    holds: Rounds,
    losses: Losses,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Everything, for bench/results/voice.json: the median, and each round."""

    def spread(rounds: Rounds) -> dict[str, Any]:
        return {
            key: {
                name: {
                    "median": round(median(values), 3),
                    "runs": [round(value, 3) for value in values],
                }
                for name in sorted({name for figures in runs for name in figures})
                if (values := [figures[name] for figures in runs if name in figures])
            }
            for key, runs in rounds.items()
        }

    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {
            "cores": os.cpu_count(),
            "kernel": ".".join(platform.release().split(".")[:2]),
            "python": platform.python_version(),
        },
        "options": options,
        "titles": titles,
        "targets": targets(costs, holds, losses),
        "doubts": doubts(costs) + doubts(holds),
        "costs": spread(costs),
        "holds": spread(holds),
        "losses": {
            key: {name: [asdict(each) for each in heard] for name, heard in networks.items()}
            for key, networks in losses.items()
        },
    }


def write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
