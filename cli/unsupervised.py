"""`voicerelay drain` and its like under systemd: there is no supervisor, so transceivers are asked themselves."""

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from voicerelay.cli.errors import UserError
from voicerelay.cli.roll import transceivers
from voicerelay.cli.status import StatusReader
from voicerelay.shm import rundir

SYSTEMD = "systemd"  # as the instance file names who keeps the processes
LOOK_S = 0.2
_ROLL = "for each SLOT: voicerelay drain SLOT && systemctl restart voicerelay-transceiver@SLOT"
_INSTEAD = {
    "reload": _ROLL,
    "upgrade": f"voicerelay systemd install …, systemctl daemon-reload, then {_ROLL}",
    "stop": "voicerelay drain, if calls are to finish, then systemctl stop voicerelay.target 'voicerelay-*'",
}

Json = dict[str, Any]


def under_systemd(run_dir: Path) -> bool:
    """Whether systemd keeps the processes of an instance."""
    try:
        described = json.loads((run_dir / rundir.INSTANCE_FILE).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(described, dict) and described.get("manager") == SYSTEMD


def refuse(kind: str) -> None:
    """Raises UserError, which says how systemd is asked for it."""
    raise UserError(f"systemd keeps this instance; {_INSTEAD[kind]}")


def drain(run_dir: Path, slots: Sequence[int], deadline_s: int | None, wait: bool) -> None:
    """Have transceivers take no new calls, all when none is named. Raises UserError."""
    reader = StatusReader(run_dir)
    before = reader.read()
    told = asyncio.run(_order(run_dir, slots, deadline_s, False))
    slots = [one["slot"] for one in told]
    longest_s = max(one["deadline_s"] for one in told)
    click.echo(f"draining {transceivers(slots)} for at most {longest_s} s")
    if not wait:
        return
    while (seen := reader.read()) and _sum(seen, slots, "sessions"):
        time.sleep(LOOK_S)
    name = "stragglers_ended"
    ended = _sum(seen, slots, name) - _sum(before, slots, name)
    click.echo(
        f"no call left in {transceivers(slots)}"
        + (f"; {ended} calls were ended by the deadline" if ended > 0 else "")
    )


def undrain(run_dir: Path, slots: Sequence[int]) -> None:
    """Have them take new calls again. Raises UserError."""
    told = asyncio.run(_order(run_dir, slots, None, True))
    click.echo(f"new calls go to {transceivers([one['slot'] for one in told])} again")


async def _order(
    run_dir: Path, slots: Sequence[int], deadline_s: int | None, undrain: bool
) -> list[Json]:
    """What those say that obey. Raises UserError when one that was named does not, or nobody."""
    from voicerelay.cli.figures import TransceiverFigures  # noqa: PLC0415  (it brings aiohttp)

    asked = TransceiverFigures(run_dir)
    found: list[Json] = []
    for slot in slots or asked.slots():
        told = await (asked.undrain(slot) if undrain else asked.drain(slot, deadline_s))
        if told is not None:
            found.append(told)
        elif slots:
            raise UserError(f"transceiver {slot} does not answer; see voicerelay status")
    if not found:
        raise UserError("no transceiver answers; see voicerelay status")
    return found


def _sum(status: Json, slots: Sequence[int], figure: str) -> int:
    """Over those of these transceivers that drain; one that was started again does not."""
    return sum(
        one[figure] for one in status["transceivers"] if one["slot"] in slots and one["draining"]
    )
