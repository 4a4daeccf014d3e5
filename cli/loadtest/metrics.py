"""The figures of a load test by name, as reports show them and `--fail-if` judges them. Pure."""

from typing import Final

from voicerelay.cli.loadtest.fleet import Measured
from voicerelay.cli.loadtest.histogram import Histogram
from voicerelay.cli.loadtest.tally import PHASES

QUANTILES: Final = (50, 95, 99)
Metrics = dict[str, float | None]

# What each figure is; shares are 0..1, times seconds. Phases have _p50, _p95, _p99.
MEANINGS: Final = {
    f"{phase}_p{q}": f"{phase.replace('_', ' ')}, seconds" for phase in PHASES for q in QUANTILES
} | {
    "asked": "calls begun",
    "connected": "of them with DTLS done",
    "failed": "of them that did not come about",
    "dropped": "that had been up and were lost",
    "up_most": "calls at once, at most",
    "connected_share": "connected / asked",
    "on_schedule": "share of the server's frames that came within 20 ms of their place",
    "loss": "share of the server's frames that did not come",
    "lateness_p99": "behind their place, seconds",
    "gap_p99": "between packets, seconds, without meant silence",
    "gap_max": "the longest, seconds",
    "jitter_p50": "interarrival jitter of a call, seconds",
    "jitter_p99": "the same of the worst calls",
    "reordered": "packets behind a later one",
    "duplicates": "packets that came again",
    "mouth_to_ear_p50": "seconds from spoken to heard again, by marks",
    "mouth_to_ear_p99": "the same",
    "marks_missed": "marks that were not heard again",
    "server_cpu_per_call": "share of a core",
    "server_rss_per_call": "bytes",
    "client_cpu_per_call": "share of a core",
    "begin_lag_p99": "by which calls begin late, waiting for others to have begun, seconds",
    "client_lag_p99": "of this tool behind its own plan, seconds",
    "sent_agreement": "datagrams sent / what the server counted",
    "received_agreement": "datagrams received / what the server counted",
}


def metrics_of(measured: Measured) -> Metrics:
    """None for what was not measured."""
    tally, arrivals = measured.tally, measured.tally.arrivals
    found: Metrics = {}
    for phase, histogram in tally.phases.items():
        for q in QUANTILES:
            found[f"{phase}_p{q}"] = histogram.quantile(q / 100)
    dropped, failed = tally.dropped.total(), tally.failed.total()
    found |= {
        "asked": tally.asked,
        "connected": tally.connected,
        "failed": failed,
        "dropped": dropped,
        "up_most": tally.up_most,
        "connected_share": _share(tally.connected, tally.asked),
        "on_schedule": _share(arrivals.frames - arrivals.late, tally.expected),
        "loss": _share(tally.expected - arrivals.frames, tally.expected),
        "lateness_p99": arrivals.lateness.quantile(0.99),
        "gap_p99": arrivals.gaps.quantile(0.99),
        "gap_max": _largest(arrivals.gaps),
        "jitter_p50": tally.jitter.quantile(0.5),
        "jitter_p99": tally.jitter.quantile(0.99),
        "reordered": arrivals.reordered,
        "duplicates": arrivals.duplicates,
        "mouth_to_ear_p50": tally.mouth_to_ear.quantile(0.5),
        "mouth_to_ear_p99": tally.mouth_to_ear.quantile(0.99),
        "marks_missed": tally.marks_missed,
        "client_cpu_per_call": _share(tally.cpu_s, tally.call_s),
        "begin_lag_p99": tally.begin_lag.quantile(0.99),
        "client_lag_p99": tally.lag.quantile(0.99),
    }
    return found | _of_server(measured)


def _of_server(measured: Measured) -> Metrics:
    tally, samples, counted = measured.tally, measured.samples, measured.counted
    cpu = rss = sent = received = None
    if samples:
        cpu = _share(samples[-1].cpu_s, tally.call_s)
        grown = max(sample.rss_bytes for sample in samples) - samples[0].rss_bytes
        rss = _share(grown, tally.up_most)
    if counted is not None:
        sent = _share(tally.sent, counted.received)
        received = _share(tally.received, counted.sent)
    return {
        "server_cpu_per_call": cpu,
        "server_rss_per_call": rss,
        "sent_agreement": sent,
        "received_agreement": received,
    }


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _largest(histogram: Histogram) -> float | None:
    return histogram.largest if len(histogram) else None
