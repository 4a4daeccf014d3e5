"""Prometheus metrics of one look at an instance: base units, few labels, counters that never go back."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder

from voicerelay.cli.admin.ready import control_up, lively
from voicerelay.cli.admin.snapshot import Snapshot
from voicerelay.cli.admin.totals import Totals

# Name in `status` -> kind; the figures of one kind add up over relays or transceivers.
RELAY_PACKETS = {"packets_received": "received", "packets_forwarded": "forwarded"}
TRANSCEIVER_PACKETS = {
    "packets_received": "received",
    "packets_delivered": "delivered",
    "packets_sent": "sent",
}
STEERED = {
    "steered_by_flow": "flow",
    "steered_by_ufrag": "ufrag",
    "steered_to_relay": "relay",
    "steered_dropped_no_relay": "dropped",
}
RTP = {
    "packets_lost_total": ("lost_in", "lost_out", "RTP packets lost; out: as clients report it."),
    "packets_total": ("packets_in", "packets_out", "RTP packets of calls."),
    "payload_bytes_total": ("bytes_in", "bytes_out", "Octets of Opus in them."),
}
HISTOGRAMS = {
    "frame_lateness": ("frame_lateness_s", "How long after it was due each voice frame left."),
    "event_loop_lag": ("loop_lag_s", "How late a timer of each 0.1 s came."),
    "rtt": ("rtt_s", "Round trip to clients, by RTCP; once a call and second."),
}
# Reasons of an end, up to a colon; all others are "other".
REASONS = {
    "the client hung up": "hung_up",
    "the client hung up (DELETE)": "hung_up",
    "hung up": "hung_up",
    "the client let the agent go (disconnect-bot)": "hung_up",
    "closed by the app or the client": "hung_up",
    "closed by the agent": "agent_closed",
    "the agent has finished": "agent_finished",
    "the agent failed": "agent_failed",
    "the agent was cancelled": "agent_failed",
    "no media within the setup time": "setup_timeout",
    "consent expired": "consent_expired",
    "ended by the operator": "operator",
    "ICE or DTLS failed": "dtls_failed",
    "DTLS failed": "dtls_failed",
    "its webrtc_id cannot be had": "refused",
    "its voice failed": "internal_error",
    "internal error": "internal_error",
    "the server is stopping": "stopping",
}
OVERFLOW = "socket_overflow"  # lost by the kernel; a reason to drop like the others


class Metrics:
    """Remembers what processes counted before they were replaced."""

    def __init__(self) -> None:
        self._totals = Totals()

    def render(self, seen: Snapshot, accept: str = "") -> tuple[bytes, str]:
        """The text of a scrape and its content type; `accept` as the scraper's header has it."""
        encode, content_type = choose_encoder(accept)
        return encode(_Families(list(self.families(seen)))), content_type

    def families(self, seen: Snapshot) -> Iterator[Metric]:
        """All metrics."""
        self._note(seen)
        yield from _gauges(seen.status)
        yield from self._counters()
        yield from self._histograms(seen)

    # ---- taking in ---------------------------------------------------------------------------

    def _note(self, seen: Snapshot) -> None:
        status = seen.status
        for relay in status["relays"]:
            self._note_process("relay", relay["index"], relay)
        for one in status["transceivers"]:
            self._note_process("transceiver", one["slot"], one)
        if status["control"]:
            self._note_process("control", 0, status["control"])
        for slot, told in seen.figures.items():
            self._note_figures(slot, told)

    def _note_process(self, role: str, index: int, process: dict[str, Any]) -> None:
        life = process["pid"], process.get("generation")
        for name, value in process.items():
            if isinstance(value, int) and not isinstance(value, bool):
                self._totals.note((role, name), index, life, value)
        for reason, count in process.get("dropped", {}).items():
            self._totals.note((role, "dropped", reason), index, life, count)
        lost = process.get("socket_overflows")
        if lost is not None:
            self._totals.note((role, "dropped", OVERFLOW), index, life, lost)

    def _note_figures(self, slot: int, told: dict[str, Any]) -> None:
        life, note = (told["pid"], told["generation"]), self._totals.note
        for name, value in told["rtp"].items():
            note(("rtp", name), slot, life, value)
        ended: dict[str, int] = {}
        for reason, count in told["ended"].items():
            short = REASONS.get(reason, "other")
            ended[short] = ended.get(short, 0) + count
        for short, count in ended.items():
            note(("ended", short), slot, life, count)
        for name in ("frames_skipped", "records_written", "records_dropped"):
            note(("process", name), slot, life, told.get(name, 0))
        made = {key: told[key] for key, _ in HISTOGRAMS.values()}
        made |= {f"setup {phase}": one for phase, one in told["setup_s"].items()}
        for name, histogram in made.items():
            note((name, "sum"), slot, life, histogram["sum"])
            for index, count in enumerate(histogram["counts"]):
                note((name, index), slot, life, count)

    # ---- giving out --------------------------------------------------------------------------

    def _counters(self) -> Iterator[Metric]:
        totals = self._totals
        for role, kinds in (("relay", RELAY_PACKETS), ("transceiver", TRANSCEIVER_PACKETS)):
            packets = _counter(f"{role}_packets_total", f"Packets of a {role}.", [role, "kind"])
            for name, kind in kinds.items():
                for index, value in totals.of((role, name)).items():
                    packets.add_metric([str(index), kind], value)
            yield packets
        for role in ("relay", "transceiver"):
            dropped = _counter(
                f"{role}_packets_dropped_total", f"Packets that {role}s dropped.", ["reason"]
            )
            for reason in self._reasons(role):
                dropped.add_metric([reason], totals.sum((role, "dropped", reason)))
            yield dropped
        yield self._summed("relay", "bytes_received", "relay_received_bytes_total")
        yield self._summed("relay", "frames_sent", "relay_frames_total")
        yield self._summed("transceiver", "sessions_started", "sessions_started_total")
        yield self._summed("transceiver", "offers_refused", "offers_refused_total")
        yield self._summed("transceiver", "send_failures", "transceiver_send_failures_total")
        yield self._summed("control", "sockets_adopted", "sockets_adopted_total")
        yield self._summed("process", "frames_skipped", "frames_skipped_total")
        yield self._summed("process", "records_written", "call_records_total")
        yield self._summed("process", "records_dropped", "call_records_dropped_total")
        steered = _counter("steered_packets_total", "Packets that the kernel steered.", ["kind"])
        for name, kind in STEERED.items():
            steered.add_metric([kind], totals.sum(("control", name)))
        yield steered
        ended = _counter("sessions_ended_total", "Calls that have ended.", ["reason"])
        for short in sorted({*REASONS.values(), "other"}):
            ended.add_metric([short], totals.sum(("ended", short)))
        yield ended
        for name, (inward, outward, text) in RTP.items():
            rtp = _counter(f"rtp_{name}", text, ["direction"])
            rtp.add_metric(["in"], totals.sum(("rtp", inward)))
            rtp.add_metric(["out"], totals.sum(("rtp", outward)))
            yield rtp

    def _reasons(self, role: str) -> list[str]:
        return [
            name[2]
            for name in self._totals.names()
            if isinstance(name, tuple) and name[:2] == (role, "dropped")
        ]

    def _summed(self, role: str, name: str, metric: str) -> Metric:
        counter = _counter(metric, f"{name.replace('_', ' ').capitalize()}, all together.", ())
        counter.add_metric([], self._totals.sum((role, name)))
        return counter

    def _histograms(self, seen: Snapshot) -> Iterator[Metric]:
        told = next(iter(seen.figures.values()), None)
        if told is None:
            return
        setup = HistogramMetricFamily(
            "voicerelay_session_setup_seconds", "Phases of call set-ups.", labels=["phase"]
        )
        for phase, one in told["setup_s"].items():
            setup.add_metric([phase], *self._buckets(f"setup {phase}", one["bounds"]))
        yield setup
        for name, (key, text) in HISTOGRAMS.items():
            family = HistogramMetricFamily(f"voicerelay_{name}_seconds", text, labels=())
            family.add_metric([], *self._buckets(key, told[key]["bounds"]))
            yield family

    def _buckets(self, name: str, bounds: Sequence[float]) -> tuple[list[tuple[str, float]], float]:
        """Cumulative, as Prometheus has them, and the sum."""
        buckets, below = [], 0.0
        for index, bound in enumerate((*map(str, bounds), "+Inf")):
            below += self._totals.sum((name, index))
            buckets.append((bound, below))
        return buckets, self._totals.sum((name, "sum"))


class _Families:
    """What an encoder takes for a registry."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _gauges(status: dict[str, Any]) -> Iterator[Metric]:
    info = _gauge("build_info", "What runs; always 1.", ["version", "plane"])
    info.add_metric([str(status.get("version")), str(status.get("plane"))], 1)
    yield info
    alone = {
        "control_up": ("Whether control's heart beats.", control_up(status)),
        "steering_enabled": ("Whether the kernel steers.", status.get("plane") == "steering"),
        "routes": ("Routes in the shared table.", status["routes"]),
        "flows": ("Flows in the shared table.", status["flows"]),
        "table_capacity": ("Calls the shared tables have room for.", status["capacity"]),
        "sockets": ("Public UDP sockets.", status["sockets"]),
    }
    for name, (text, value) in alone.items():
        yield _gauge(name, text, (), float(value))
    yield _by("relay_up", "Whether a relay's heart beats.", "relay", status, lively)
    yield _by("transceiver_up", "Whether its heart beats.", "transceiver", status, lively)
    for name, (text, field, scale) in {
        "sessions": ("Calls.", "sessions", 1.0),
        "sessions_max": ("Calls that it takes at most.", "max_sessions", 1.0),
        "draining": ("1: it takes no new calls, and ends with its last.", "draining", 1.0),
        "overloaded": ("1: frames come late, no new calls.", "overloaded", 1.0),
        "frame_lateness_p99_seconds": ("Of the last seconds.", "frame_lateness_p99_us", 1e-6),
    }.items():
        family = _gauge(name, text, ["transceiver"])
        for one in status["transceivers"]:
            family.add_metric([str(one["slot"])], one.get(field, 0) * scale)
        yield family


def _by(name: str, text: str, role: str, status: dict[str, Any], value: Any) -> Metric:
    family = _gauge(name, text, [role])
    for one in status[f"{role}s"]:
        family.add_metric([str(one["index" if role == "relay" else "slot"])], float(value(one)))
    return family


def _gauge(
    name: str, text: str, labels: Sequence[str], value: float | None = None
) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"voicerelay_{name}", text, value, labels or None)


def _counter(name: str, text: str, labels: Sequence[str]) -> CounterMetricFamily:
    return CounterMetricFamily(f"voicerelay_{name}", text, labels=labels)
