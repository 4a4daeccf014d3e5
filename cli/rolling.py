"""`voicerelay drain`, `reload`, `upgrade` and `stop`: ask the running supervisor, and show how it goes on."""

import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

import click

from voicerelay.cli import unsupervised
from voicerelay.cli.commands import MAX_MESSAGE_BYTES, Command
from voicerelay.cli.errors import UserError
from voicerelay.cli.status import is_running, with_instance
from voicerelay.shm.order import MAX_DEADLINE_S
from voicerelay.shm.rundir import supervisor_socket

STOPPED_LOOK_S = 0.05

_deadline = click.option(
    "--deadline",
    type=click.IntRange(0, MAX_DEADLINE_S),
    metavar="SECONDS",
    help="How long running calls may go on; then they are ended. [default: --drain-deadline of the start]",
)
_wait = click.option(
    "--wait/--no-wait", default=True, show_default=True, help="Wait for the last call to end."
)


@click.command()
@click.argument("slots", nargs=-1, type=int, metavar="[SLOT]...")
@_deadline
@click.option("--undrain", "--cancel", is_flag=True, help="Take new calls again.")
@_wait
@with_instance
def drain(
    run_dir: Path, slots: tuple[int, ...], deadline: int | None, undrain: bool, wait: bool
) -> None:
    """Let transceivers take no new calls; all of them when no SLOT is given.

    New calls go to the others, or get 503 with Retry-After when there is none.
    """
    if unsupervised.under_systemd(run_dir):
        if undrain:
            unsupervised.undrain(run_dir, slots)
        else:
            unsupervised.drain(run_dir, slots, deadline, wait)
        return
    kind = "undrain" if undrain else "drain"
    ask(run_dir, Command(kind, deadline, list(slots)), wait)


@click.command()
@_deadline
@_wait
@with_instance
def reload(run_dir: Path, deadline: int | None, wait: bool) -> None:
    """Take up new code of the agent, and new settings, under running calls.

    New transceivers start beside the old ones and take the new calls; the old ones end with their last
    call. Then relays are replaced one by one. When a new transceiver does not start, all stays as it was.
    """
    ask(run_dir, Command("reload", deadline), wait)


@click.command()
@_deadline
@_wait
@with_instance
def upgrade(run_dir: Path, deadline: int | None, wait: bool) -> None:
    """Change a running instance to the installation that this command belongs to, under running calls.

    Refused, with all as it was, when the two cannot share their tables.
    """
    ask(run_dir, Command("upgrade", deadline, python=sys.executable), wait)


@click.command()
@click.option("--drain", is_flag=True, help="Let running calls finish first.")
@_deadline
@with_instance
def stop(run_dir: Path, drain: bool, deadline: int | None) -> None:
    """Stop the instance; calls end at once, and their clients are told."""
    ask(run_dir, Command("stop", deadline, drain=drain or deadline is not None))
    while is_running(run_dir):
        time.sleep(STOPPED_LOOK_S)
    click.echo("stopped")


def ask(run_dir: Path, command: Command, wait: bool = True) -> None:
    """Give a command and print what is said of it. Raises UserError when it fails."""
    if unsupervised.under_systemd(run_dir):
        unsupervised.refuse(command.kind)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        try:
            sock.connect(str(supervisor_socket(run_dir)))
            sock.send(command.encode())
        except OSError as exc:
            raise UserError(
                f"the supervisor in {run_dir} takes no commands: {exc.strerror}; is it still starting?"
            ) from None
        while True:
            message = _next(sock)
            if "error" in message:
                raise UserError(message["error"])
            if text := message.get("say") or message.get("done"):
                click.echo(text)
            if "done" in message or ("switched" in message and not wait):
                return


def _next(sock: socket.socket) -> dict[str, Any]:
    try:
        data = sock.recv(MAX_MESSAGE_BYTES)
    except OSError:
        data = b""
    if not data:
        raise UserError(
            "the supervisor has stopped or was upgraded meanwhile; see voicerelay status"
        )
    found: dict[str, Any] = json.loads(data)
    return found
