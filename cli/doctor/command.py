"""The command `voicerelay doctor`: will it work here, and what mends it where not."""

import json
import re
from dataclasses import asdict

import click

from voicerelay.cli.doctor.finding import State, count
from voicerelay.cli.errors import UserError
from voicerelay.cli.options import with_settings
from voicerelay.cli.sources import Sources

EXIT_FAIL = 1
STUN_PORT = 3478  # RFC 8489 §18.6
_SERVER = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]]+))(?::([0-9]{1,5}))?")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option(
    "--stun",
    metavar="HOST:PORT",
    help="Ask this STUN server how the internet sees us; without it nobody is contacted.",
)
@with_settings
def doctor(sources: Sources, as_json: bool, stun: str | None) -> None:
    """Look whether `start` with the same options works well on this host, and say what mends it.

    Runs beside a running instance too. Exit code 1 when something would keep calls from working.
    """
    from voicerelay.cli.doctor.examine import examine, render  # noqa: PLC0415  (keeps others quick)

    findings = examine(sources.config(), parse_server(stun) if stun else None)
    counts = count(findings)
    if as_json:
        told = [asdict(finding) for finding in findings]
        click.echo(json.dumps({"findings": told, "counts": counts}, indent=2))
    else:
        click.echo(render(findings))
    if counts[State.FAIL]:
        raise SystemExit(EXIT_FAIL)


def parse_server(text: str) -> tuple[str, int]:
    """Host and port of a STUN server. Raises UserError."""
    match = _SERVER.fullmatch(text)
    port = int(match[3] or STUN_PORT) if match else 0
    if match is None or not 1 <= port <= 65535:
        raise UserError(f'--stun: "{text}" is not HOST:PORT, such as stun.example:{STUN_PORT}')
    return match[1] or match[2], port
