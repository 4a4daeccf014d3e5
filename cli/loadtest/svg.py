"""Plots as inline SVG: lines over a linear or logarithmic axis. Pure, and nothing but text."""

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 560, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 34, 40
COLOURS = ("#2563eb", "#ea580c", "#16a34a", "#9333ea", "#64748b")
MAX_POINTS = 600  # a line
TICKS = 5
SMALLEST_X = 1e-9  # on a logarithmic axis; what is below is left out

Point = tuple[float, float]


class Line(NamedTuple):
    name: str
    points: Sequence[Point]


def chart(
    title: str,
    lines: Sequence[Line],
    x_label: str,
    *,
    log_x: bool = False,
    y_max: float | None = None,
) -> str:
    """One <svg>; lines without points are left out, and without any there is a note instead."""
    drawn = [Line(line.name, _thinned(line.points)) for line in lines if line.points]
    if log_x:
        drawn = [Line(n, [(x, y) for x, y in points if x > SMALLEST_X]) for n, points in drawn]
    xs = [x for line in drawn for x, _ in line.points]
    ys = [y for line in drawn for _, y in line.points]
    body = [f'<text class="title" x="{LEFT}" y="16">{escape(title)}</text>']
    if not xs:
        body.append(f'<text x="{LEFT}" y="{HEIGHT / 2}">not measured</text>')
    else:
        x_ticks = _log_ticks(min(xs), max(xs)) if log_x else _ticks(min(0.0, *xs), max(xs))
        y_ticks = _ticks(0.0, y_max or max(ys))
        across = _scale(x_ticks[0], x_ticks[-1], LEFT, WIDTH - RIGHT, log_x)
        up = _scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP, False)
        body += _grid(x_ticks, y_ticks, across, up, x_label)
        for index, line in enumerate(drawn):
            body += _line(line, COLOURS[index % len(COLOURS)], across, up)
        body += _legend([line.name for line in drawn])
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(body)}</svg>'


Scale = Callable[[float], float]


def _grid(xs: list[float], ys: list[float], across: Scale, up: Scale, x_label: str) -> list[str]:
    floor = HEIGHT - BOTTOM
    body = []
    for y in ys:
        at = up(y)
        body.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        )
        body.append(f'<text class="tick end" x="{LEFT - 6}" y="{at + 4:.1f}">{_short(y)}</text>')
    for x in xs:
        at = across(x)
        body.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{floor}"/>')
        body.append(f'<text class="tick mid" x="{at:.1f}" y="{floor + 15}">{_short(x)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    body.append(f'<text class="tick mid" x="{middle}" y="{HEIGHT - 6}">{escape(x_label)}</text>')
    return body


def _line(line: Line, colour: str, across: Scale, up: Scale) -> list[str]:
    path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line.points)
    return [f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{path}"/>']


def _legend(names: Sequence[str]) -> list[str]:
    """At the right end of the title's line."""
    body = []
    right = float(WIDTH - RIGHT)
    for index in reversed(range(len(names))):
        body.append(f'<text class="tick end" x="{right:.0f}" y="16">{escape(names[index])}</text>')
        right -= 5.4 * len(names[index]) + 19
        colour = COLOURS[index % len(COLOURS)]
        body.append(f'<rect x="{right:.0f}" y="8" width="9" height="9" rx="2" fill="{colour}"/>')
        right -= 10
    return body


def _scale(low: float, high: float, start: float, end: float, log: bool) -> Scale:
    def place(value: float) -> float:
        if log:
            share = (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
        else:
            share = (value - low) / (high - low)
        return start + min(1.0, max(0.0, share)) * (end - start)

    return place


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, from at most `low` to at least `high`."""
    span = max(high - low, 1e-9)
    power = 10 ** math.floor(math.log10(span / TICKS))
    step = power * next(m for m in (1, 2, 5, 10, 20) if m * power * TICKS >= span)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * n for n in range(first, max(last, first + 1) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    return [10.0**n for n in range(first, max(last, first + 1) + 1)]


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    step = len(points) // MAX_POINTS + 1
    return points if step == 1 else [*points[::step], points[-1]]


def _short(value: float) -> str:
    return f"{value:.10g}" if abs(value) < 10_000 else f"{value / 1000:.10g}k"
