"""Draws one snapshot and what came before it as lines that fill a terminal. No I/O, no clock."""

from collections import deque
from collections.abc import Sequence
from typing import Any

from rich.text import Text

from voicerelay.cli.status import duration
from voicerelay.cli.top.columns import (
    BAD,
    DIM,
    HEAD,
    NOTE,
    RELAYS,
    SESSIONS,
    TRANSCEIVERS,
    Column,
    header,
    late_style,
    loss_style,
    ms,
    percent,
    rate,
    row,
    share,
    size,
)
from voicerelay.cli.top.state import HELP, State

HISTORY = 120  # snapshots that sparklines look back
MIN_WIDTH, MIN_HEIGHT = 60, 16
_LEVELS = "▁▂▃▄▅▆▇█"
_LINES_AROUND = 9  # title, totals, drops, three headers, footer
_SORT_KEYS = {
    "age": "age_s",
    "rtt": "rtt_ms",
    "loss": "loss_in",
    "jitter": "jitter_ms",
    "late": "lateness_p99_ms",
    "id": "short_id",
}

Json = dict[str, Any]


class History:
    """Totals of the last snapshots, for sparklines."""

    def __init__(self) -> None:
        self._totals: deque[Json] = deque(maxlen=HISTORY)

    def add(self, totals: Json) -> None:
        self._totals.append(totals)

    def of(self, name: str, points: int) -> str:
        values = [totals[name] for totals in list(self._totals)[-points:]]
        return sparkline(values).rjust(points)


def sparkline(values: Sequence[float | None]) -> str:
    """One character a value, from 0 to the highest of them."""
    top = max((value for value in values if value is not None), default=0)
    steps = len(_LEVELS) - 1
    return "".join(
        " " if value is None else _LEVELS[round(steps * value / top) if top > 0 else 0]
        for value in values
    )


def draw(
    shown: Json | None, history: History, state: State, width: int, height: int, trouble: str = ""
) -> list[Text]:
    """Exactly `height` lines. `shown`: None before the first look; `trouble`: why it is old."""
    if width < MIN_WIDTH or height < MIN_HEIGHT:
        lines = [Text(f"top needs {MIN_WIDTH}x{MIN_HEIGHT} characters, q quits")]
    elif state.help:
        lines = _help()
    elif shown is None:
        lines = [Text(trouble or "looking…", style=BAD if trouble else DIM)]
    else:
        lines = _all(shown, history, state, width, height, trouble)
    lines = lines[: height - 1]
    lines += [Text("")] * (height - 1 - len(lines))
    foot = _footer(state, width)
    for line in (*lines, foot):
        line.truncate(width)
    return [*lines, foot]


def _all(
    shown: Json, history: History, state: State, width: int, height: int, trouble: str
) -> list[Text]:
    lines = [_title(shown, state, trouble, width), *_totals(shown, history, width), _drops(shown)]
    room = max(2, (height - _LINES_AROUND) // 4)
    lines += _processes(RELAYS, shown["relays"], room, width)
    lines += _processes(TRANSCEIVERS, shown["transceivers"], room, width)
    ordered = sort_sessions(shown["sessions"], state.sort, state.descending)
    lines.append(header(SESSIONS, width, state.sort, state.descending))
    free = height - 1 - len(lines)
    first = max(0, min(state.offset, len(ordered) - free))
    lines += [row(SESSIONS, one, width) for one in ordered[first : first + free]]
    return lines


def sort_sessions(sessions: Sequence[Json], sort: str, descending: bool) -> list[Json]:
    """Calls without the figure come last, whichever way it goes; equal ones by their id."""
    key = _SORT_KEYS[sort]
    known = [one for one in sessions if one[key] is not None]
    known.sort(key=lambda one: str(one["id"]))
    known.sort(key=lambda one: one[key], reverse=descending)
    return known + [one for one in sessions if one[key] is None]


def _title(shown: Json, state: State, trouble: str, width: int) -> Text:
    line = Text(no_wrap=True)
    line.append(f"voicerelay {shown['version']}", style="bold")
    line.append(f"  UDP {shown['port']}")
    if trouble:
        line.append(f"  {trouble}", style=BAD)
        return line
    line.append(f"  {shown['plane']}")
    if shown["uptime_s"] is not None:
        line.append(f"  up {duration(shown['uptime_s'])}")
    line.append(f"  {shown['app']}", style=DIM)
    note = "paused" if state.paused else f"every {state.interval_s:g} s"
    line.append(
        note.rjust(max(len(note) + 2, width - len(line))), style=NOTE if state.paused else DIM
    )
    return line


def _totals(shown: Json, history: History, width: int) -> list[Text]:
    totals = shown["totals"]
    points = max(8, min(HISTORY, (width - 44) // 2))
    first, second, third = Text(no_wrap=True), Text(no_wrap=True), Text(no_wrap=True)
    calls = f"{totals['sessions']}/{totals['max_sessions']}"
    for line, name, value, key, style in (
        (first, "calls", calls, "sessions", "green"),
        (first, "cpu", percent(totals["cpu_percent"]), "cpu_percent", "magenta"),
        (second, "in/s", rate(totals["packets_in_per_s"]), "packets_in_per_s", "cyan"),
        (second, "out/s", rate(totals["packets_out_per_s"]), "packets_out_per_s", "cyan"),
    ):
        line.append(f"{name:<6}", style=HEAD)
        line.append(f"{value:>11} ")
        line.append(history.of(key, points), style=style)
        line.append("  ")
    for name, text, style in (
        ("loss in", share(totals["loss_in"]), loss_style(totals["loss_in"])),
        ("out", share(totals["loss_out"]), loss_style(totals["loss_out"])),
        ("rtt", f"{ms(totals['rtt_ms'])} ms", ""),
        ("jitter", f"{ms(totals['jitter_ms'])} ms", ""),
        (
            "late p50/p99",
            f"{ms(totals['lateness_p50_ms'])}/{ms(totals['lateness_p99_ms'])} ms",
            late_style(totals["lateness_p99_ms"]),
        ),
        ("rss", size(totals["rss_bytes"]), ""),
    ):
        third.append(f"{name} ", style=HEAD)
        third.append(f"{text}  ", style=style)
    return [first, second, third]


def _drops(shown: Json) -> Text:
    """By reason, what grows first."""
    drops = shown["totals"]["drops"]
    line = Text(no_wrap=True)
    line.append("drops ", style=HEAD)
    if not drops:
        line.append("none", style=DIM)
    for reason in sorted(drops, key=lambda one: (-drops[one]["per_s"], -drops[one]["count"])):
        told = drops[reason]
        line.append(f"{reason} {told['count']}")
        if told["per_s"]:
            line.append(f" +{rate(told['per_s'])}/s", style=NOTE)
        line.append("  ")
    return line


def _processes(columns: list[Column], found: list[Json], room: int, width: int) -> list[Text]:
    """At most `room` of them; those with the most to do, when there are more."""
    chosen, rest = found, 0
    if len(found) > room:
        busy = sorted(found, key=lambda one: -(one["cpu_percent"] or 0))[: room - 1]
        chosen, rest = [one for one in found if one in busy], len(found) - len(busy)
    lines = [header(columns, width), *(row(columns, one, width) for one in chosen)]
    return lines + ([Text(f"and {rest} more with less to do", style=DIM)] if rest else [])


def _help() -> list[Text]:
    lines = [Text("keys", style="bold"), Text("")]
    for key, meaning in HELP:
        line = Text()
        line.append(f"  {key:<6}", style=HEAD)
        line.append(meaning)
        lines.append(line)
    lines += [
        Text(""),
        Text("loss in: of what the client sent, since the call began; out: as it reports."),
        Text("late: ms after its time that a frame left, of the call's transceiver (p99)."),
        Text("calls of a transceiver: yellow, as it drains; red, as it is overloaded."),
        Text("any key goes back", style=DIM),
    ]
    return lines


def _footer(state: State, width: int) -> Text:
    text = " ? help  s sort  r reverse  j/k scroll  p pause  +/- interval  q quit"
    return Text(text.ljust(width), style="reverse", no_wrap=True)
