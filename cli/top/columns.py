"""The tables of `top`: which columns, how wide, how a figure is written, and when it is worth a colour."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from voicerelay.cli.status import HEARTBEAT_OLD_MS, duration

BAD, NOTE, DIM, HEAD = "bold red", "yellow", "dim", "bold cyan"
LATE_BAD_MS = 20.0  # a whole frame
LOSS_NOTE, LOSS_BAD = 0.01, 0.05
RTT_NOTE_MS = 300.0
CPU_NOTE_PERCENT = 85.0

Json = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """`width`: characters; below zero the text stands left. `from_width`: terminals that show it."""

    title: str
    width: int
    show: Callable[[Json], str]
    style: Callable[[Json], str] = lambda _: ""
    sort: str = ""
    from_width: int = 0


def header(columns: Sequence[Column], width: int, sort: str = "", descending: bool = True) -> Text:
    line = Text(no_wrap=True)
    for column in _shown(columns, width):
        chosen = bool(sort) and column.sort == sort
        title = column.title + (("↓" if descending else "↑") if chosen else "")
        line.append(_fit(title, column.width) + " ", style="bold white" if chosen else HEAD)
    return line


def row(columns: Sequence[Column], one: Json, width: int) -> Text:
    line = Text(no_wrap=True)
    for column in _shown(columns, width):
        line.append(_fit(column.show(one), column.width) + " ", style=column.style(one))
    return line


def _shown(columns: Sequence[Column], width: int) -> list[Column]:
    return [column for column in columns if width >= column.from_width]


def _fit(text: str, width: int) -> str:
    size = abs(width)
    text = text if len(text) <= size else text[: size - 1] + "…"
    return text.ljust(size) if width < 0 else text.rjust(size)


def rate(value: float | None) -> str:
    """A second."""
    if value is None:
        return "-"
    if value >= 1_000_000:
        return f"{value / 1_000_000:.1f}M"
    return f"{value / 1000:.1f}k" if value >= 1000 else f"{value:.0f}"


def ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def share(value: float | None) -> str:
    """0 to 1 as per cent."""
    return "-" if value is None else f"{value:.1%}"


def size(value: int | None) -> str:
    return "-" if value is None else f"{value >> 20}M"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}%"


def loss_style(value: float | None) -> str:
    if value is None or value < LOSS_NOTE:
        return ""
    return BAD if value >= LOSS_BAD else NOTE


def late_style(value: float | None) -> str:
    return BAD if value is not None and value >= LATE_BAD_MS else ""


def _beat_style(one: Json) -> str:
    return BAD if one["heartbeat_ms"] > HEARTBEAT_OLD_MS else ""


def _cpu_style(one: Json) -> str:
    return NOTE if (one["cpu_percent"] or 0) > CPU_NOTE_PERCENT else ""


def _process(name: str, key: str) -> list[Column]:
    return [
        Column(name, -13, lambda one: f"{name} {one[key]}", _beat_style),
        Column("pid", 7, lambda one: str(one["pid"]), lambda _: DIM),
        Column("up", 6, lambda one: duration(one["uptime_s"])),
    ]


_WORK = [
    Column("in/s", 6, lambda one: rate(one["packets_in_per_s"])),
    Column("out/s", 6, lambda one: rate(one["packets_out_per_s"])),
    Column(
        "drops/s",
        7,
        lambda one: rate(one["dropped_per_s"]),
        lambda one: NOTE if one["dropped_per_s"] else "",
    ),
]
_COST = [
    Column("cpu", 5, lambda one: percent(one["cpu_percent"]), _cpu_style),
    Column("rss", 5, lambda one: size(one["rss_bytes"])),
]


def _calls(one: Json) -> str:
    return (
        f"{one['sessions']} left" if one["draining"] else f"{one['sessions']}/{one['max_sessions']}"
    )


def _calls_style(one: Json) -> str:
    if one["overloaded"]:
        return BAD
    return NOTE if one["draining"] else ""


RELAYS = [
    *_process("relay", "index"),
    *_WORK,
    *_COST,
    Column("loop", 6, lambda one: "C" if one["compiled"] else "Python"),
    Column("sockets", 7, lambda one: str(one["sockets_read"])),
]
TRANSCEIVERS = [
    *_process("transceiver", "slot"),
    *_WORK,
    *_COST,
    Column("calls", 8, _calls, _calls_style),
    Column(
        "late99",
        6,
        lambda one: ms(one["lateness_p99_ms"]),
        lambda one: late_style(one["lateness_p99_ms"]),
    ),
    Column("late50", 6, lambda one: ms(one["lateness_p50_ms"]), from_width=90),
    Column("loop lag", 8, lambda one: ms(one["loop_lag_ms"]), from_width=100),
]
SESSIONS = [
    Column("call", -8, lambda one: str(one["short_id"]), sort="id"),
    Column("age", 7, lambda one: duration(one["age_s"]), sort="age"),
    Column("state", -10, lambda one: str(one["state"] or "")),
    Column("slot", 4, lambda one: str(one["slot"])),
    Column("codec", -5, lambda one: str(one["codec"] or "-")),
    Column(
        "rtt ms",
        7,
        lambda one: ms(one["rtt_ms"]),
        lambda one: NOTE if (one["rtt_ms"] or 0) > RTT_NOTE_MS else "",
        sort="rtt",
    ),
    Column(
        "loss in",
        8,
        lambda one: share(one["loss_in"]),
        lambda one: loss_style(one["loss_in"]),
        sort="loss",
    ),
    Column("out", 6, lambda one: share(one["loss_out"]), lambda one: loss_style(one["loss_out"])),
    Column("jitter", 7, lambda one: ms(one["jitter_ms"]), sort="jitter"),
    Column(
        "late",
        6,
        lambda one: ms(one["lateness_p99_ms"]),
        lambda one: late_style(one["lateness_p99_ms"]),
        sort="late",
    ),
    Column("contract", -15, lambda one: str(one["contract"] or ""), from_width=100),
    Column("client", -18, lambda one: str(one["client"] or ""), from_width=120),
]
