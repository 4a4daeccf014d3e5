"""`voicerelay loadtest`: the command, its progress line and its exit codes."""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from voicerelay.cli.errors import UserError
from voicerelay.cli.loadtest.contracts import PATHS, endpoint
from voicerelay.cli.loadtest.scenario import SCENARIOS
from voicerelay.cli.loadtest.thresholds import BadThreshold, Threshold, parse_threshold

if TYPE_CHECKING:
    from voicerelay.cli.loadtest.fleet import Measured, Progress
    from voicerelay.cli.loadtest.plan import Plan

THRESHOLD_FAILED = 1  # exit code; also when not one call came about
MAX_KEY_BYTES = 16 * 1024


@click.command()
@click.argument("url", required=False)
@click.option("--calls", type=int, default=10, show_default=True, help="At once.")
@click.option(
    "--duration", type=float, default=30.0, show_default=True, metavar="S", help="Of all."
)
@click.option("--scenario", type=click.Choice(SCENARIOS), default="steady", show_default=True)
@click.option("--contract", type=click.Choice(tuple(PATHS)), default="whip", show_default=True)
@click.option("--rate", type=float, default=20.0, show_default=True, help="Calls begun a second.")
@click.option(
    "--talk",
    type=float,
    default=0.5,
    show_default=True,
    help="Share of the time that a caller speaks, 0 to 1; in pauses it sends comfort packets.",
)
@click.option("--loss", type=float, default=0.0, help="Share of voice packets lost, each way.")
@click.option("--jitter-ms", type=float, default=0.0, help="What callers send waits up to that.")
@click.option(
    "--rebind-every", type=float, default=0.0, metavar="S", help="A NAT gives each call a new port."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of all chance.")
@click.option("--workers", type=int, help="Processes. [default: one for 250 calls, as cores allow]")
@click.option(
    "--sources", type=int, default=8, show_default=True, help="Addresses 127.0.0.2 and on."
)
@click.option(
    "--marked",
    type=int,
    default=4,
    show_default=True,
    help="Calls whose delay from mouth to ear is measured, with an agent that echoes.",
)
@click.option(
    "--key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Holds an API key or token to call with; of several lines the first counts.",
)
@click.option("--allow-remote", is_flag=True, help="The target may be another machine than this.")
@click.option("--port", type=int, help="UDP port of the instance, when several run here.")
@click.option("--run-dir", type=click.Path(path_type=Path), help="Its run directory.")
@click.option(
    "--fail-if",
    "conditions",
    multiple=True,
    metavar="EXPR",
    help="Exit with 1 if it holds, such as 'setup_p99>0.5' or 'dropped>0'; may be given again.",
)
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with plots."
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def loadtest(
    url: str | None,
    contract: str,
    conditions: tuple[str, ...],
    key_file: Path | None,
    port: int | None,
    run_dir: Path | None,
    html: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Call URL with many real WebRTC clients and report how they were served.

    URL: http://HOST:PORT, or that of any WHIP endpoint. Without it: the instance that runs here.
    """
    # Heavy imports wait until there is a test to run.
    from voicerelay.cli.loadtest import targets, watch  # noqa: PLC0415
    from voicerelay.cli.loadtest.metrics import MEANINGS  # noqa: PLC0415

    thresholds = read_thresholds(conditions, MEANINGS)
    key = read_key(key_file) if key_file else ""
    run_dir = run_dir.absolute() if run_dir else None
    watched: watch.Watched | None
    if url is None:
        url, watched = watch.local_url(run_dir, port)
    else:
        targets.check_url(url, given["allow_remote"])
        watched = watch.instance_of(url, run_dir, port)
    plan = make_plan(endpoint(contract, url), contract, **given)
    sources = targets.sources(plan.url, plan.sources)
    if html is not None:
        check_writable(html)
    measured = run(plan, key, sources, watched)
    failures = show(measured, thresholds, html, as_json)
    for failure in failures if as_json else ():
        click.echo(f"FAILED  {failure}", err=True)
    if failures or not measured.tally.connected or measured.workers_lost:
        raise SystemExit(THRESHOLD_FAILED)


def make_plan(
    url: str,
    contract: str,
    *,
    duration: float,
    workers: int | None,
    loss: float,
    jitter_ms: float,
    rebind_every: float,
    **rest: Any,
) -> "Plan":
    """Raises UserError."""
    from voicerelay.cli.loadtest.impairment import Impairment  # noqa: PLC0415
    from voicerelay.cli.loadtest.plan import CALLS_A_WORKER, Plan  # noqa: PLC0415

    if workers is None:
        workers = max(1, min(-(-rest["calls"] // CALLS_A_WORKER), os.cpu_count() or 1))
    return Plan(
        url=url,
        contract=contract,
        duration_s=duration,
        workers=workers,
        impairment=Impairment(loss, jitter_ms / 1000, rebind_every),
        **rest,
    )


def run(plan: "Plan", key: str, sources: list[str], watched: Any) -> "Measured":
    """The test, with a progress line on a terminal and none elsewhere."""
    from voicerelay.cli.loadtest.fleet import Fleet  # noqa: PLC0415

    shown = sys.stderr.isatty()

    def show_progress(progress: "Progress") -> None:
        if shown:
            click.echo(f"\r{progress_line(plan.duration_s, progress)}\x1b[K", nl=False, err=True)

    try:
        return asyncio.run(Fleet(plan, key, sources, watched, show_progress).run())
    finally:
        if shown:
            click.echo(err=True)


def progress_line(duration_s: float, progress: "Progress") -> str:
    return (
        f"{progress['at_s']:.0f}/{duration_s:.0f} s  {progress['up']:.0f} calls up, "
        f"{progress['failed']:.0f} failed, {progress['dropped']:.0f} dropped, "
        f"{progress['frames']:.0f} frames, {progress['late']:.0f} late"
    )


def show(
    measured: "Measured", thresholds: Sequence[Threshold], html: Path | None, as_json: bool
) -> list[str]:
    """Print and write the report; gives what --fail-if objects to."""
    from voicerelay.cli.loadtest import page, report  # noqa: PLC0415
    from voicerelay.cli.loadtest.metrics import metrics_of  # noqa: PLC0415

    metrics = metrics_of(measured)
    failures = [why for one in thresholds if (why := one.objection(metrics))]
    if html is not None:
        html.write_text(page.as_html(measured, metrics, failures))
    if as_json:
        click.echo(json.dumps(report.as_json(measured, metrics, failures), indent=2))
    else:
        click.echo(report.as_text(measured, metrics, failures))
    return failures


def read_thresholds(conditions: Sequence[str], known: Any) -> list[Threshold]:
    """Raises UserError."""
    try:
        return [parse_threshold(text, known) for text in conditions]
    except BadThreshold as exc:
        raise UserError(f"--fail-if: {exc}") from None


def read_key(path: Path) -> str:
    """The first key or token of a file, without its name. Raises UserError."""
    try:
        with path.open(encoding="ascii") as file:
            lines = [line.strip() for line in file.read(MAX_KEY_BYTES).splitlines()]
    except (OSError, ValueError):
        raise UserError(f"--key-file: {path} cannot be read") from None
    key = next((line.rpartition(":")[2] for line in lines if line and not line.startswith("#")), "")
    if not key or any(not "!" <= char <= "~" for char in key):
        raise UserError(f"--key-file: {path} holds no key")
    return key


def check_writable(path: Path) -> None:
    """Before the test, not after it. Raises UserError."""
    if not path.absolute().parent.is_dir():
        raise UserError(f"--html: there is no directory {path.absolute().parent}")
