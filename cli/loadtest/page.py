"""One self-contained page of a load test, to show to others. Pure."""

import itertools
from collections.abc import Sequence
from html import escape

from voicerelay import __version__
from voicerelay.cli.loadtest.fleet import Measured
from voicerelay.cli.loadtest.histogram import Histogram
from voicerelay.cli.loadtest.metrics import Metrics
from voicerelay.cli.loadtest.report import NOT_MEASURED, caution, headline, rows
from voicerelay.cli.loadtest.svg import Line, Point, chart

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;color:#0f172a;background:#f8fafc;margin:0}
main{max-width:1180px;margin:0 auto;padding:24px}
h1{font-size:22px;margin:0 0 2px}p{margin:0 0 18px;color:#475569}
.tiles,.plots{display:grid;gap:14px;margin:0 0 18px}
.tiles{grid-template-columns:repeat(auto-fit,minmax(132px,1fr))}
.plots{grid-template-columns:repeat(auto-fit,minmax(460px,1fr))}
.tile,.plots>svg,table{background:#fff;border:1px solid #e2e8f0;border-radius:10px}
.tile{padding:12px 14px}.tile b{display:block;font-size:24px;white-space:nowrap}
.tile span{color:#475569;font-size:13px}
.good b{color:#15803d}.bad b{color:#b91c1c}
.plots>svg{width:100%;height:auto;box-sizing:border-box;padding:10px}
svg text{font:12px system-ui,sans-serif;fill:#334155}svg .title{font-weight:600;font-size:13px}
svg .tick{font-size:11px;fill:#64748b}svg .end{text-anchor:end}svg .mid{text-anchor:middle}
svg .grid{stroke:#e2e8f0}
table{width:100%;border-collapse:separate;border-spacing:0;padding:6px 14px}
th{text-align:left;padding:10px 0 4px;color:#475569}td{padding:3px 0;border-top:1px solid #f1f5f9}
td:last-child{text-align:right;font-variant-numeric:tabular-nums}
.failures{background:#fef2f2;border:1px solid #fecaca;border-radius:10px;padding:10px 14px;margin:0 0 18px}
"""


def as_html(measured: Measured, metrics: Metrics, failures: Sequence[str]) -> str:
    """Everything inline: no scripts, nothing to load."""
    failed = "".join(f"<div>{escape(failure)}</div>" for failure in failures)
    return "".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width"><title>Load test</title>',
            f"<style>{_STYLE}</style></head><body><main>",
            f"<h1>Load test: {measured.tally.connected} voice calls</h1>",
            f"<p>{escape(headline(measured))}</p>",
            f'<div class="failures">{failed}</div>' if failed else "",
            f"<p>{escape(note)}</p>" if (note := caution(metrics)) else "",
            f'<div class="tiles">{_tiles(measured, metrics)}</div>',
            f'<div class="plots">{"".join(_plots(measured))}</div>',
            f"<table>{_table(measured, metrics)}</table>",
            f"<p>voicerelay {escape(__version__)}</p></main></body></html>\n",
        )
    )


def _tiles(measured: Measured, m: Metrics) -> str:
    dropped, failed = measured.tally.dropped.total(), measured.tally.failed.total()
    on_schedule = m["on_schedule"]
    tiles = [
        ("calls at once", f"{measured.tally.up_most}", ""),
        ("dropped", f"{dropped}", "bad" if dropped else "good"),
        ("did not connect", f"{failed}", "bad" if failed else "good"),
        ("set-up, p99", _ms(m["setup_p99"]), ""),
        (
            "on schedule",
            f"{on_schedule:.2%}" if on_schedule is not None else NOT_MEASURED,
            "" if on_schedule is None else "good" if on_schedule > 0.999 else "bad",
        ),
        ("mouth to ear, p50", _ms(m["mouth_to_ear_p50"]), ""),
        ("server CPU a call", _core(m["server_cpu_per_call"]), ""),
    ]
    return "".join(
        f'<div class="tile {kind}"><b>{escape(figure)}</b><span>{escape(what)}</span></div>'
        for what, figure, kind in tiles
    )


def _plots(measured: Measured) -> list[str]:
    tally, progress, samples = measured.tally, measured.progress, measured.samples
    return [
        chart(
            "Calls",
            [
                Line("up", [(one["at_s"], one["up"]) for one in progress]),
                Line("failed", [(one["at_s"], one["failed"]) for one in progress]),
                Line("dropped", [(one["at_s"], one["dropped"]) for one in progress]),
            ],
            "seconds",
        ),
        chart(
            "Set-up: % within",
            [
                _curve(phase.replace("_", " "), histogram)
                for phase, histogram in tally.phases.items()
            ],
            "milliseconds",
            log_x=True,
            y_max=100,
        ),
        chart(
            "Server's frames: % within",
            [_curve("lateness", tally.arrivals.lateness), _curve("gap", tally.arrivals.gaps)],
            "milliseconds",
            log_x=True,
            y_max=100,
        ),
        chart(
            "Mouth to ear: % within",
            [_curve("delay", tally.mouth_to_ear)],
            "milliseconds",
            y_max=100,
        ),
        chart(
            "Server CPU, % of a core",
            [Line("all processes", _rates([(s.at_s, s.cpu_s) for s in samples], 100))],
            "seconds",
        ),
        chart(
            "Datagrams a second",
            [
                Line("to the server", _rates([(p["at_s"], p["sent"]) for p in progress])),
                Line("from it", _rates([(p["at_s"], p["received"]) for p in progress])),
            ],
            "seconds",
        ),
    ]


def _curve(name: str, histogram: Histogram) -> Line:
    return Line(name, [(1000 * seconds, 100 * share) for seconds, share in histogram.shares()])


def _rates(points: Sequence[Point], scale: float = 1.0) -> list[Point]:
    """What rises, by its slope."""
    return [
        (at, scale * (value - before) / (at - earlier))
        for (earlier, before), (at, value) in itertools.pairwise(points)
        if at > earlier
    ]


def _table(measured: Measured, metrics: Metrics) -> str:
    return "".join(
        f'<tr><th colspan="2">{escape(title)}</th></tr>'
        + "".join(
            f"<tr><td>{escape(what)}</td><td>{escape(figure)}</td></tr>" for what, figure in group
        )
        for title, group in rows(measured, metrics)
    )


def _ms(seconds: float | None) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds is not None else NOT_MEASURED


def _core(share: float | None) -> str:
    return f"{share:.2%}" if share is not None else NOT_MEASURED
