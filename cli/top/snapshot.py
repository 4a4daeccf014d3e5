"""Two looks at an instance become figures a second: what `top` shows and `top --json` prints. No I/O."""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from voicerelay.cli.top.sample import Sample, Use

Json = dict[str, Any]


def snapshot(now: Sample, before: Sample | None = None) -> Json:
    """Figures of `now`; those a second are None where `before` does not know the process."""
    status = now.status
    interval_s = now.at - before.at if before is not None else 0.0
    rates = _Rates(now, before)
    relays = [_relay(one, rates) for one in status["relays"]]
    transceivers = [_transceiver(one, rates) for one in status["transceivers"]]
    late = {one["slot"]: one["lateness_p99_ms"] for one in transceivers}
    sessions = [session(one, late.get(one["slot"])) for one in now.sessions]
    return {
        "version": status["version"],
        "pid": status["pid"],
        "app": status["app"],
        "port": status["port"],
        "listen": status["listen"],
        "plane": status.get("plane"),
        "portable_because": status.get("portable_because", ""),
        "uptime_s": status["uptime_s"],
        "interval_s": round(interval_s, 3),
        "totals": _totals(now, before, relays, transceivers, sessions, rates),
        "relays": relays,
        "transceivers": transceivers,
        "sessions": sessions,
    }


class _Rates:
    """Differences to the same process a moment ago."""

    def __init__(self, now: Sample, before: Sample | None) -> None:
        self._use = now.use
        self._use_before: dict[int, Use] = before.use if before else {}
        self.seconds = now.at - before.at if before else 0.0
        old = before.status if before else {"relays": [], "transceivers": []}
        self._before = {one["pid"]: one for one in (*old["relays"], *old["transceivers"])}
        self._figures, self._figures_before = now.figures, before.figures if before else {}

    def of(self, process: Json, *names: str) -> float | None:
        """The sum of counters, a second."""
        return self._a_second(process, lambda one: sum(one[name] for name in names))

    def dropped(self, process: Json) -> float | None:
        return self._a_second(process, _dropped)

    def reasons(self, process: Json) -> dict[str, float]:
        """Drops a second by reason."""
        told = {}
        for reason in process["dropped"]:
            told[reason] = self._a_second(process, lambda one, r=reason: one["dropped"].get(r, 0))
        return {reason: rate for reason, rate in told.items() if rate is not None}

    def cpu_percent(self, pid: int) -> float | None:
        now, before = self._use.get(pid), self._use_before.get(pid)
        if now is None or before is None or self.seconds <= 0:
            return None
        return round(100 * max(0.0, now.cpu_s - before.cpu_s) / self.seconds, 1)

    def rss_bytes(self, pid: int) -> int | None:
        use = self._use.get(pid)
        return use.rss_bytes if use else None

    def lateness_ms(self, slot: int, share: float) -> float | None:
        """A quantile of the frames sent since the last look."""
        now, before = self._figures.get(slot), self._figures_before.get(slot)
        if now is None:
            return None
        counts = list(now["frame_lateness_s"]["counts"])
        if before is not None and before["pid"] == now["pid"]:
            old = before["frame_lateness_s"]["counts"]
            counts = [new - had for new, had in zip(counts, old, strict=True)]
        found_s = quantile(now["frame_lateness_s"]["bounds"], counts, share)
        return None if found_s is None else round(found_s * 1000, 2)

    def _a_second(self, process: Json, value: Any) -> float | None:
        before = self._before.get(process["pid"])
        if before is None or self.seconds <= 0:
            return None
        difference: int = value(process) - value(before)
        return round(max(0, difference) / self.seconds, 1)


def quantile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """Of a histogram, linear within a bucket; None without an observation.

    What is above the last bound counts as at it.
    """
    total = sum(counts)
    if total <= 0:
        return None
    wanted, seen, low = share * total, 0, 0.0
    for high, count in zip(bounds, counts, strict=False):
        if count and seen + count >= wanted:
            return low + (high - low) * max(0.0, wanted - seen) / count
        seen, low = seen + count, high
    return low


def session(told: Json, lateness_p99_ms: float | None) -> Json:
    """One call; shares are 0 to 1, `loss_in` since its begin. Lateness is its transceiver's."""
    heard, lost = told["packets_in"], told["lost_in"]
    keys = ("id", "short_id", "slot", "state", "age_s", "codec", "rtt_ms", "jitter_ms")
    more = ("concealed_ms", "packets_in", "packets_out", "client", "contract", "key", "relay")
    return {key: told.get(key) for key in (*keys, *more)} | {
        "loss_in": round(lost / (heard + lost), 4) if heard + lost > 0 else 0.0,
        "loss_out": told["fraction_lost_out"],
        "lateness_p99_ms": lateness_p99_ms,
    }


def _relay(one: Json, rates: _Rates) -> Json:
    pid = one["pid"]
    return {
        "index": one["index"],
        "pid": pid,
        "uptime_s": one["uptime_s"],
        "heartbeat_ms": one["heartbeat_ms"],
        "compiled": bool(one["compiled"]),
        "sockets_read": one["sockets_read"],
        "packets_in_per_s": rates.of(one, "packets_received"),
        "packets_out_per_s": rates.of(one, "packets_forwarded"),
        "dropped_per_s": rates.dropped(one),
        "dropped": _dropped(one),
        "cpu_percent": rates.cpu_percent(pid),
        "rss_bytes": rates.rss_bytes(pid),
    }


def _transceiver(one: Json, rates: _Rates) -> Json:
    pid, slot = one["pid"], one["slot"]
    p99_ms = rates.lateness_ms(slot, 0.99)
    return {
        "slot": slot,
        "pid": pid,
        "uptime_s": one["uptime_s"],
        "heartbeat_ms": one["heartbeat_ms"],
        "sessions": one["sessions"],
        "max_sessions": one["max_sessions"],
        "draining": bool(one.get("draining")),
        "overloaded": bool(one["overloaded"]),
        "packets_in_per_s": rates.of(one, "packets_received"),
        "packets_out_per_s": rates.of(one, "packets_sent"),
        "dropped_per_s": rates.dropped(one),
        "dropped": _dropped(one),
        "lateness_p50_ms": rates.lateness_ms(slot, 0.5),
        "lateness_p99_ms": p99_ms
        if p99_ms is not None
        else one["frame_lateness_p99_us"] / 1000 or None,
        "loop_lag_ms": one["loop_lag_us"] / 1000,
        "cpu_percent": rates.cpu_percent(pid),
        "rss_bytes": rates.rss_bytes(pid),
    }


def _totals(
    now: Sample,
    before: Sample | None,
    relays: list[Json],
    transceivers: list[Json],
    sessions: list[Json],
    rates: _Rates,
) -> Json:
    processes = [*now.status["relays"], *now.status["transceivers"]]
    reasons: dict[str, Json] = {}
    for process in processes:
        per_s = rates.reasons(process)
        for reason, count in process["dropped"].items():
            told = reasons.setdefault(reason, {"count": 0, "per_s": 0.0})
            told["count"] += count
            told["per_s"] = round(told["per_s"] + per_s.get(reason, 0.0), 1)
        lost = reasons.setdefault("socket_overflow", {"count": 0, "per_s": 0.0})
        lost["count"] += process["socket_overflows"]
        lost["per_s"] += rates.of(process, "socket_overflows") or 0.0
    dropped_by_relays = [one["dropped_per_s"] for one in relays]
    return {
        "sessions": now.status["sessions"],
        "max_sessions": sum(one["max_sessions"] for one in transceivers),
        # Steered packets never see a relay; all that is taken comes to a transceiver.
        "packets_in_per_s": _sum(
            [*dropped_by_relays, *(one["packets_in_per_s"] for one in transceivers)]
        ),
        "packets_out_per_s": _sum(one["packets_out_per_s"] for one in transceivers),
        "dropped_per_s": _sum(
            [*dropped_by_relays, *(one["dropped_per_s"] for one in transceivers)]
        ),
        "drops": {reason: told for reason, told in reasons.items() if told["count"]},
        "loss_in": _lost_share(now, before),
        "loss_out": _mean(one["loss_out"] for one in sessions),
        "rtt_ms": _median(one["rtt_ms"] for one in sessions),
        "jitter_ms": _median(one["jitter_ms"] for one in sessions),
        "lateness_p50_ms": _max(one["lateness_p50_ms"] for one in transceivers),
        "lateness_p99_ms": _max(one["lateness_p99_ms"] for one in transceivers),
        "cpu_percent": _sum(rates.cpu_percent(pid) for pid in now.use),
        "rss_bytes": sum(use.rss_bytes for use in now.use.values()),
    }


def _lost_share(now: Sample, before: Sample | None) -> float | None:
    """Of what clients sent since the last look, the share that never came."""
    if before is None:
        return None
    old = {one["id"]: one for one in before.sessions}
    heard = lost = 0
    for one in now.sessions:
        had = old.get(one["id"])
        heard += one["packets_in"] - (had["packets_in"] if had else 0)
        lost += one["lost_in"] - (had["lost_in"] if had else 0)
    lost = max(0, lost)  # what comes late takes its loss back
    return round(lost / (heard + lost), 4) if heard + lost > 0 else None


def _dropped(process: Json) -> int:
    by_reason: dict[str, int] = process["dropped"]
    return sum(by_reason.values()) + int(process["socket_overflows"])


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _sum(values: Iterable[float | None]) -> float | None:
    found = _known(values)
    return round(sum(found), 1) if found else None


def _max(values: Iterable[float | None]) -> float | None:
    return max(_known(values), default=None)


def _mean(values: Iterable[float | None]) -> float | None:
    found = _known(values)
    return round(sum(found) / len(found), 4) if found else None


def _median(values: Iterable[float | None]) -> float | None:
    found = _known(values)
    return round(median(found), 1) if found else None
