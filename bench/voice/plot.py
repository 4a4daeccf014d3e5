"""The picture for the docs: CPU of a call, what is heard over a bad network, and how late."""

from pathlib import Path
from typing import Any

HOW_TO_INSTALL = "no plot: matplotlib is missing (pip install 'matplotlib>=3.9')"
_COLORS = {"ours": "#1b7f5c", "stock": "#9aa5b1"}
_NAMES = {"ours": "voicerelay", "stock": "stock aiortc"}


def draw(summary: dict[str, Any], path: Path) -> str:
    """Write a PNG; returns a line for the user."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - only the bench needs it
    except ImportError:
        return HOW_TO_INSTALL
    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    figure, (cost, audible, delay) = pyplot.subplots(1, 3, figsize=(15, 4.4))
    _draw_cost(cost, summary)
    _draw_loss(
        audible, summary, "audible", 100, "Audio heard while the network is bad\n% of the time"
    )
    _draw_loss(delay, summary, "after_ms", 1, "Delay to the agent, 1 s after it was bad\nms")
    rounds = summary["options"]["rounds"]
    machine = summary["machine"]
    figure.text(
        0.01,
        0.01,
        f"Full duplex, complexity 5 with FEC (stock: its own 10), medians of {rounds} rounds;"
        f" {machine['cores']} cores, Linux {machine['kernel']}",
        fontsize=7,
        color="#555555",
    )
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return f"plot: {path}"


def _draw_cost(axis: Any, summary: dict[str, Any]) -> None:
    costs = summary["costs"]
    shown = [key for key in summary["titles"] if key in costs]
    names = [summary["titles"][key].replace("*", "") for key in shown]
    values = [costs[key]["frame_us"]["median"] for key in shown]
    if "floor" in costs:
        names.insert(0, "floor: libopus + libsrtp")
        values.insert(0, costs["floor"]["floor_us"]["median"])
    colors = [_COLORS["ours" if "voicerelay" in name else "stock"] for name in names]
    axis.barh(names, values, color=colors)
    for row, value in enumerate(values):
        axis.annotate(
            f" {value:.0f} µs: {20_000 / value:.0f} calls", (value, row), va="center", fontsize=8
        )
    axis.margins(x=0.3)
    axis.invert_yaxis()
    axis.set_title("CPU of 20 ms of a call, µs; calls per core", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)


def _draw_loss(axis: Any, summary: dict[str, Any], name: str, scale: float, title: str) -> None:
    losses = summary["losses"]
    for offset, (key, networks) in enumerate(losses.items()):
        values = [
            scale * sum(each[name] for each in heard) / len(heard) for heard in networks.values()
        ]
        rows = [row + (offset - 0.5) * 0.4 for row in range(len(values))]
        axis.barh(rows, values, 0.38, color=_COLORS[key], label=_NAMES[key])
        axis.set_yticks(range(len(values)), list(networks))
    axis.invert_yaxis()
    axis.set_title(title, fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    if name != "audible":
        axis.legend(fontsize=8, frameon=False)
