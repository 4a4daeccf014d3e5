"""The picture for the README: calls that a core holds, and what a call costs the more there are."""

from pathlib import Path
from typing import Any

from bench.voice.plot import HOW_TO_INSTALL

_COLORS = {
    "portable": "#1b7f5c",
    "steering": "#3fae85",
    "stock": "#9aa5b1",
    "steering_echo": "#7fc9a6",
    "stock_echo": "#c3cad1",
}


def draw(content: dict[str, Any], path: Path) -> str:
    """Write a PNG; returns a line for the user."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - only the bench needs it
    except ImportError:
        return HOW_TO_INSTALL
    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    figure, (bars, curve) = pyplot.subplots(1, 2, figsize=(13, 4.4), width_ratios=(1, 1.1))
    _draw_limits(bars, content)
    _draw_costs(curve, content)
    about, cores = content["about"], content["cores"]
    figure.text(
        0.01,
        0.01,
        "Agents and callers speak all the time; 50 frames/s each way at every call, p99 late by at most 5 ms;"
        f" servers on {len(cores['server'])} core(s), callers on {len(cores['callers'])}; Linux {about['kernel']}",
        fontsize=7,
        color="#555555",
    )
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return f"plot: {path}"


def _draw_limits(axis: Any, content: dict[str, Any]) -> None:
    shown = content["contenders"]
    values = [one["calls_per_server_core"] for one in shown.values()]
    axis.barh(
        [one["title"] for one in shown.values()], values, color=[_COLORS[key] for key in shown]
    )
    for row, one in enumerate(shown.values()):
        by = f"  ({one['by_stock']:.1f} times stock)" if one["by_stock"] not in (None, 1.0) else ""
        value = one["calls_per_server_core"]
        axis.annotate(f" {value:.0f} calls{by}", (value, row), va="center", fontsize=9)
    axis.margins(x=0.35)
    axis.invert_yaxis()
    axis.set_title("Calls held for each server core, every frame on schedule", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)


def _draw_costs(axis: Any, content: dict[str, Any]) -> None:
    for key, one in content["contenders"].items():
        held = sorted((p["calls"], p["cost_us"]) for p in one["points"] if p["held"])
        if held:
            calls, costs = zip(*held, strict=True)
            axis.plot(calls, costs, "o-", color=_COLORS[key], label=one["title"], markersize=4)
        if held and not all(p["held"] for p in one["points"]):
            axis.annotate(" limit", (calls[-1], costs[-1]), fontsize=8, color=_COLORS[key])
    axis.set_ylim(bottom=0)
    axis.set_xlabel("calls at once", fontsize=9)
    axis.set_title("Server CPU for a second of a call, µs", fontsize=10)
    axis.legend(fontsize=8, frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
