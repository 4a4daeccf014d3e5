"""The command `voicerelay top`; what it needs is imported when it runs, so that others stay quick."""

import asyncio
import json
import sys
from contextlib import suppress
from pathlib import Path

import click

from voicerelay.cli.errors import UserError
from voicerelay.cli.status import with_instance

MIN_INTERVAL_S, MAX_INTERVAL_S = 0.2, 60.0


@click.command()
@click.option(
    "--interval",
    type=click.FloatRange(MIN_INTERVAL_S, MAX_INTERVAL_S),
    default=1.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option("--once", is_flag=True, help="Print one picture and end.")
@click.option("--json", "as_json", is_flag=True, help="Print one snapshot for programs and end.")
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), hidden=True)
@with_instance
def top(run_dir: Path, interval: float, once: bool, as_json: bool, svg: Path | None) -> None:
    """Watch relays, transceivers and calls live; ? shows the keys."""
    from voicerelay.cli.top import terminal  # noqa: PLC0415

    if svg is not None:
        svg.write_text(asyncio.run(terminal.picture(run_dir, interval)), encoding="utf-8")
    elif as_json:
        click.echo(json.dumps(asyncio.run(terminal.once(run_dir, interval)), indent=2))
    elif once:
        terminal.show(asyncio.run(terminal.once(run_dir, interval)))
    elif not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError("top needs a terminal; use --once or --json")
    else:
        with suppress(KeyboardInterrupt):
            asyncio.run(terminal.live(run_dir, interval))
