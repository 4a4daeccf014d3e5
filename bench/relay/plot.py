"""The picture for the docs: CPU of each relay at both loads, and what it adds in time."""

from pathlib import Path
from typing import Any

HOW_TO_INSTALL = "no plot: matplotlib is missing (pip install 'matplotlib>=3.9')"
_OURS, _THEIRS = "#1b7f5c", "#9aa5b1"
_PANELS = (
    ("saturated", "relay_us", "CPU of the relay, saturated\nµs per packet"),
    ("everyday", "relay_us", "CPU of the relay, 20,000 packets/s\nµs per packet"),
    (
        "everyday",
        "p99_us",
        "One-way latency, 20,000 packets/s\nµs, logarithmic: p50 (dot), p99 (bar)",
    ),
)


def draw(summary: dict[str, Any], path: Path) -> str:
    """Write a PNG; returns a line for the user."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - only the bench needs it
    except ImportError:
        return HOW_TO_INSTALL
    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    shown = {k: c for k, c in summary["contenders"].items() if "phases" in c}
    names = [str(c["title"]).replace("*", "").replace("`", "") for c in shown.values()]
    colors = [_OURS if "voicerelay" in name else _THEIRS for name in names]
    figure, axes = pyplot.subplots(1, len(_PANELS), figsize=(13, 4.2), sharey=True)
    for axis, (phase, figure_name, title) in zip(axes, _PANELS, strict=True):
        found = [c["phases"].get(phase, {}).get(figure_name) for c in shown.values()]
        widths = [f["median"] if f else 0 for f in found]
        spread = [
            [w - f["min"] if f else 0 for w, f in zip(widths, found, strict=True)],
            [f["max"] - w if f else 0 for w, f in zip(widths, found, strict=True)],
        ]
        axis.barh(names, widths, color=colors, xerr=spread, ecolor="#444444", capsize=2)
        for row, (width, high) in enumerate(zip(widths, spread[1], strict=True)):
            label = f"{width:,.0f}" if width >= 10 else f"{width:.2g}"
            axis.annotate(f" {label}", (width + high, row), va="center", fontsize=8)
        axis.margins(x=0.15)
        if figure_name == "p99_us":
            middles = [c["phases"].get(phase, {}).get("p50_us") for c in shown.values()]
            axis.set_xscale("log")
            axis.set_xlim(1, max(w + high for w, high in zip(widths, spread[1], strict=True)) * 4)
            axis.plot([m["median"] if m else 0 for m in middles], names, "o", color="black", ms=4)
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    options = summary["options"]
    figure.text(
        0.01,
        0.01,
        f"{options['flows']} flows, 172-byte packets, medians of {options['rounds']} rounds, whiskers"
        f" min to max; {summary['machine']['cores']} cores, Linux {summary['machine']['kernel']}",
        fontsize=7,
        color="#555555",
    )
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return f"plot: {path}"
