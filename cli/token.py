"""`voicerelay token`: a short-lived token, signed by an API key, for a browser or a phone."""

import re
import time
from pathlib import Path

import click

from voicerelay.cli.config import ConfigError, load_keys
from voicerelay.cli.errors import UserError
from voicerelay.cli.options import config_option, sources_of
from voicerelay.transceiver.signalling.keys import TokenError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_TTL = re.compile(r"([0-9]{1,9})([smhd]?)")


@click.command()
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file that `voicerelay start` has.",
)
@click.option("--key", default="", metavar="NAME", help="The key that signs. [default: the first]")
@click.option("--ttl", default="10m", show_default=True, help="How long calls may begin: 90s, 10m.")
@click.option("--sub", default="", metavar="NAME", help="Who it is for; the agent is told.")
@click.option(
    "--max-sessions", type=int, default=0, help="Calls at once of this token, or of its NAME."
)
@config_option
@click.pass_context
def token(
    ctx: click.Context,
    /,
    config_file: Path | None,
    key: str,
    ttl: str,
    sub: str,
    max_sessions: int,
    **_: Path | None,
) -> None:
    """Print a token to call with (Authorization: Bearer TOKEN)."""
    sources = sources_of(ctx, config_file, "api-key-file")
    if sources.faults:
        raise ConfigError(sources.faults)
    if sources["api-key-file"] is None:
        raise UserError("give --api-key-file, the file that `voicerelay start` has")
    keys = load_keys(sources["api-key-file"])
    try:
        made = keys.issue(time.time(), parse_ttl(ttl), key, sub, max_sessions)
    except TokenError as exc:
        raise UserError(str(exc)) from None
    click.echo(made)


def parse_ttl(text: str) -> int:
    """Seconds. Raises UserError."""
    match = _TTL.fullmatch(text)
    if match is None:
        raise UserError(f'--ttl: "{text}" is no time, such as 90s, 10m, 12h or 7d')
    return int(match[1]) * _UNITS[match[2] or "s"]
