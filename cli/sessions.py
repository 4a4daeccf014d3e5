"""`voicerelay sessions`: the calls of a running instance, listed, looked at, and ended."""

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from voicerelay.cli.errors import UserError
from voicerelay.cli.status import duration, with_instance

if TYPE_CHECKING:
    from voicerelay.cli.figures import TransceiverFigures

EXIT_NOT_FOUND = 1
MIN_SUFFIX_CHARS = 4
SORTS = ("age", "rtt", "loss", "jitter", "slot", "id")
_FIGURES = {"age": "age_s", "rtt": "rtt_ms", "jitter": "jitter_ms", "slot": "slot", "id": "id"}

# An id may begin with "-" and go on with any letter.
_ANY_ID = {"ignore_unknown_options": True, "help_option_names": ["--help"]}

Json = dict[str, Any]


class NotFound(UserError):
    """No call, or more than one, has that id."""

    exit_code = EXIT_NOT_FOUND


@click.group()
def sessions() -> None:
    """List, show and end the calls of a running instance."""


@sessions.command()
@click.option("--sort", type=click.Choice(SORTS), default="age", show_default=True)
@click.option("--reverse", is_flag=True, help="The smallest first; of ids the last.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@with_instance
def ls(run_dir: Path, sort: str, reverse: bool, as_json: bool) -> None:
    """List the calls."""
    found = in_order(asyncio.run(_client(run_dir).sessions()), sort, reverse)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        click.echo(render(found))


@sessions.command(context_settings=_ANY_ID)
@click.argument("session_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@with_instance
def show(run_dir: Path, session_id: str, as_json: bool) -> None:
    """Show all that is known of one call. ID may be the last characters of an id."""

    async def look() -> Json | None:
        client = _client(run_dir)
        return await client.session(find(await client.sessions(), session_id)["id"])

    found = asyncio.run(look())
    if found is None:
        raise NotFound(f"{session_id} has just ended")
    click.echo(json.dumps(found, indent=2) if as_json else render_one(found))


@sessions.command(context_settings=_ANY_ID)
@click.argument("session_ids", metavar="ID…", nargs=-1, required=True)
@click.option("--reason", default="", help="For the log and the call's record.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@with_instance
def kill(run_dir: Path, session_ids: Sequence[str], reason: str, as_json: bool) -> None:
    """End calls; their clients are told. Exit code 1 when one of them was not found."""
    ended, missing = asyncio.run(_end(_client(run_dir), session_ids, reason))
    if as_json:
        click.echo(json.dumps({"ended": ended, "not_found": missing}, indent=2))
    else:
        for one in ended:
            click.echo(f"{one['id']} {one['reason']}")
        for why in missing.values():
            click.echo(f"voicerelay: error: {why}", err=True)
    if missing:
        sys.exit(EXIT_NOT_FOUND)


async def _end(
    client: "TransceiverFigures", wanted: Sequence[str], reason: str
) -> tuple[list[Json], dict[str, str]]:
    """The calls that were ended, and why each of the others was not."""
    there = await client.sessions()
    ended: list[Json] = []
    missing: dict[str, str] = {}
    for one in wanted:
        try:
            gone = await client.end(find(there, one)["id"], reason)
        except NotFound as exc:
            missing[one] = exc.format_message()
            continue
        if gone is None:
            missing[one] = f"{one} has just ended"
        else:
            ended.append(gone)
    return ended, missing


def find(there: Sequence[Json], wanted: str) -> Json:
    """The one call whose id is `wanted` or ends with it. Raises NotFound."""
    exact = [one for one in there if one["id"] == wanted]
    if exact:
        return exact[0]
    if len(wanted) < MIN_SUFFIX_CHARS:
        raise NotFound(f'"{wanted}" is too short, give {MIN_SUFFIX_CHARS} characters of the id')
    found = [one for one in there if one["id"].endswith(wanted)]
    if not found:
        raise NotFound(f'there is no call "{wanted}"; voicerelay sessions ls shows them')
    if len(found) > 1:
        raise NotFound(f'"{wanted}" is the end of {len(found)} ids; give more of it')
    return found[0]


def in_order(found: Sequence[Json], sort: str, reverse: bool) -> list[Json]:
    """The largest first (ids: the first of the alphabet); those without the figure last."""

    def figure(one: Json) -> Any:
        return _loss(one) if sort == "loss" else one[_FIGURES[sort]]

    known = [one for one in found if figure(one) is not None]
    known.sort(key=figure, reverse=reverse if sort in ("id", "slot") else not reverse)
    return known + [one for one in found if figure(one) is None]


def render(found: Sequence[Json]) -> str:
    """A table for a person."""
    if not found:
        return "no calls"
    rows = [
        ("call", "age", "state", "slot", "codec", "rtt", "loss in", "out", "jitter", "contract")
    ]
    rows += [
        (
            one["short_id"],
            duration(one["age_s"]),
            one["state"],
            str(one["slot"]),
            one["codec"] or "-",
            _ms(one["rtt_ms"]),
            f"{_loss(one):.1%}",
            f"{one['fraction_lost_out']:.1%}",
            _ms(one["jitter_ms"]),
            one["contract"],
        )
        for one in found
    ]
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def render_one(found: Json) -> str:
    """A line for each thing that is known; what has parts is indented below its name."""
    lines = []
    for name, value in found.items():
        if isinstance(value, dict):
            lines.append(f"{name}:")
            lines += [f"  {part:<20}  {_text(one)}" for part, one in value.items()]
        else:
            lines.append(f"{name:<22}  {_text(value)}")
    return "\n".join(lines)


def _client(run_dir: Path) -> "TransceiverFigures":
    from voicerelay.cli.figures import TransceiverFigures  # noqa: PLC0415  (keeps others quick)

    return TransceiverFigures(run_dir)


def _loss(one: Json) -> float:
    """Of what the client has sent, the share that never came; 0 to 1."""
    all_of_it = one["packets_in"] + one["lost_in"]
    return one["lost_in"] / all_of_it if all_of_it > 0 else 0.0


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value)
