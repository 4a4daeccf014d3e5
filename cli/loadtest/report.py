"""What a load test found, for a terminal and for programs. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from voicerelay.cli.loadtest.fleet import Measured
from voicerelay.cli.loadtest.metrics import Metrics
from voicerelay.cli.loadtest.reception import ON_SCHEDULE_S
from voicerelay.cli.loadtest.tally import PHASES

FORMAT_VERSION = 1
NOT_MEASURED = "-"

Row = tuple[str, str]


def as_json(measured: Measured, metrics: Metrics, failures: Sequence[str]) -> dict[str, Any]:
    """Everything, for programs; `metrics` has the names that --fail-if has."""
    tally = measured.tally
    return {
        "format": FORMAT_VERSION,
        "plan": asdict(measured.plan),
        "took_s": round(measured.took_s, 3),
        "interrupted": measured.interrupted,
        "workers_lost": measured.workers_lost,
        "metrics": metrics,
        "failed_thresholds": list(failures),
        "failed": dict(tally.failed),
        "dropped": dict(tally.dropped),
        "goodbyes_failed": dict(tally.goodbyes_failed),
        "datagrams": {
            "sent": tally.sent,
            "received": tally.received,
            "send_failures": tally.send_failures,
            "voice_sent": tally.voice_sent,
            "voice_expected": tally.expected,
            "voice_received": tally.arrivals.frames,
            "lost_by_impairment_out": tally.lost_out,
            "lost_by_impairment_in": tally.lost_in,
            "verified": tally.verified,
            "not_authentic": tally.not_authentic,
            "rebinds": tally.rebinds,
        },
        "client": {"cpu_s": tally.cpu_s, "call_s": tally.call_s},
        "server": asdict(measured.counted) if measured.counted else None,
        "samples": [asdict(sample) for sample in measured.samples],
        "progress": measured.progress,
    }


def rows(measured: Measured, metrics: Metrics) -> list[tuple[str, list[Row]]]:
    """Headed groups of (what, figure), for the table and the page."""
    tally, m = measured.tally, metrics
    return [
        (
            "calls",
            [
                ("asked", f"{tally.asked}"),
                ("connected", f"{tally.connected}"),
                ("at once, at most", f"{tally.up_most}"),
                ("failed", _reasons(tally.failed)),
                ("dropped", _reasons(tally.dropped)),
            ],
        ),
        (
            "set-up, p50 / p95 / p99",
            [
                (phase.replace("_", " "), _times(m, phase, ("p50", "p95", "p99")))
                for phase in PHASES
            ],
        ),
        (
            "voice from the server",
            [
                ("frames", f"{tally.arrivals.frames} of {tally.expected}"),
                ("on schedule (20 ms)", _percent(m["on_schedule"], 3)),
                ("lost", _percent(m["loss"], 3)),
                ("gap between packets, p99 / max", _times(m, "gap", ("p99", "max"))),
                ("jitter of a call, p50 / p99", _times(m, "jitter", ("p50", "p99"))),
                ("mouth to ear, p50 / p99", _times(m, "mouth_to_ear", ("p50", "p99"))),
            ],
        ),
        ("cost of a call", _costs(m)),
        ("this tool", _tool(measured, m)),
    ]


def as_text(measured: Measured, metrics: Metrics, failures: Sequence[str]) -> str:
    lines = [headline(measured)]
    for title, group in rows(measured, metrics):
        lines += ["", title]
        lines += [f"  {what:<34}{figure}" for what, figure in group]
    if note := caution(metrics):
        lines += ["", note]
    if failures:
        lines += ["", *(f"FAILED  {failure}" for failure in failures)]
    return "\n".join(lines)


def caution(metrics: Metrics) -> str:
    """What a reader of the figures must know; empty when there is nothing."""
    lag = metrics["client_lag_p99"]
    if lag is not None and lag > ON_SCHEDULE_S:
        return (
            f"This tool was itself {_ms(lag)} late (p99): its delays are part of what it measured."
        )
    return ""


def headline(measured: Measured) -> str:
    plan = measured.plan
    early = ", ended early" if measured.interrupted else ""
    lost = f", {measured.workers_lost} worker processes LOST" if measured.workers_lost else ""
    return (
        f"{plan.scenario}: {plan.calls} calls to {plan.url} ({plan.contract}), "
        f"{measured.took_s:.0f} s, talk {plan.talk:.0%}, seed {plan.seed}{early}{lost}"
    )


def _costs(m: Metrics) -> list[Row]:
    rss = m["server_rss_per_call"]
    return [
        ("server CPU", _percent_of_core(m["server_cpu_per_call"])),
        ("server memory", f"{rss / 1024:.0f} KiB" if rss is not None else NOT_MEASURED),
        ("this tool's CPU", _percent_of_core(m["client_cpu_per_call"])),
    ]


def _tool(measured: Measured, m: Metrics) -> list[Row]:
    tally = measured.tally
    found = [
        ("behind its own plan, p99", _ms(m["client_lag_p99"])),
        ("calls begun late by, p99", _ms(m["begin_lag_p99"])),
        ("datagrams sent / received", f"{tally.sent} / {tally.received}"),
    ]
    if measured.counted is not None:
        agree = f"{_percent(m['sent_agreement'], 2)} / {_percent(m['received_agreement'], 2)}"
        found.append(("of what the server counted", agree))
        found.append(("server's drops", _reasons(Counter(measured.counted.dropped))))
    if tally.rebinds:
        found.append(("new ports (NAT)", f"{tally.rebinds}"))
    if tally.lost_in or tally.lost_out:
        found.append(("lost by --loss, out / in", f"{tally.lost_out} / {tally.lost_in}"))
    if tally.not_authentic:
        found.append(
            ("packets not authentic", f"{tally.not_authentic} of {tally.verified} looked at")
        )
    if tally.goodbyes_failed:
        found.append(("goodbyes refused", _reasons(tally.goodbyes_failed)))
    return found


def _reasons(counts: Counter[str]) -> str:
    if not counts.total():
        return "0"
    each = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
    return f"{counts.total()} ({each})"


def _times(m: Metrics, name: str, which: Sequence[str]) -> str:
    return " / ".join(_ms(m[f"{name}_{one}"]) for one in which)


def _ms(seconds: float | None) -> str:
    return f"{1000 * seconds:.1f} ms" if seconds is not None else NOT_MEASURED


def _percent(share: float | None, digits: int) -> str:
    return f"{share:.{digits}%}" if share is not None else NOT_MEASURED


def _percent_of_core(share: float | None) -> str:
    return f"{share:.2%} of a core" if share is not None else NOT_MEASURED
