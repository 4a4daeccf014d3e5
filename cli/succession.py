"""An upgrade in place: what one supervisor leaves to the next, which takes over its pid, sockets and children.

The next is first asked, as a process of its own, whether it could: then nothing has been touched yet.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import click

from voicerelay import __version__
from voicerelay.cli.child import Kept
from voicerelay.cli.config import Config, fixed_settings
from voicerelay.cli.errors import UserError
from voicerelay.shm.protocol import PROTOCOL
from voicerelay.shm.region import ABI

FORMAT = 1
VARIABLE = "VOICERELAY_ESTATE"  # FD, or check:FD
CHECK_TIMEOUT_S = 30.0
MAX_REASON_CHARACTERS = 500
CAN_SUCCEED = "can take over"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR2)


@dataclass(frozen=True)
class Estate:
    """`fixed`: settings that the sockets and tables were made for. Numbers in lists are descriptors."""

    format: int
    version: str
    abi: int
    protocol: int
    fixed: dict[str, str]
    instance: str
    hosts: list[str]
    candidates: list[list[Any]]
    sockets: list[list[int]]
    transceiver_sockets: list[list[int]]
    steering: list[dict[str, int]]
    portable_because: str
    unpinned_because: str
    lock: int
    asker: int
    deadline_s: int
    stragglers: int
    children: list[dict[str, Any]]
    posts: list[list[Any]]

    @property
    def kept(self) -> list[Kept]:
        return [Kept(**child) for child in self.children]

    def fds(self) -> Iterator[int]:
        """Every descriptor that goes over."""
        yield from chain(*self.sockets, *self.transceiver_sockets)
        yield from chain.from_iterable(group.values() for group in self.steering)
        yield from (child["lifeline"] for child in self.children)
        yield self.lock
        if self.asker >= 0:
            yield self.asker

    def objection(self, fixed: dict[str, str]) -> str:
        """Why this version, with these settings, cannot take it over; empty when it can."""
        for what, theirs, ours in (("ABI", self.abi, ABI), ("protocol", self.protocol, PROTOCOL)):
            if theirs != ours:
                return (
                    f"version {__version__} has {what} {ours}, the running {self.version} has {theirs}; "
                    "calls cannot live through that: voicerelay stop --drain, then start"
                )
        changed = [name for name in fixed if self.fixed.get(name) != fixed[name]]
        if changed:
            return f"{', '.join(changed)}: changes with a start only"
        return ""


def read_estate(fd: int) -> Estate:
    """What an earlier supervisor has left in this file. Raises UserError."""
    try:
        with os.fdopen(os.dup(fd), "rb") as file:
            file.seek(0)
            found = json.loads(file.read())
        if found["format"] != FORMAT:
            raise UserError(
                f"version {__version__} cannot take over from version {found['version']}; "
                "voicerelay stop --drain, then start"
            )
        return Estate(**found)
    except (OSError, ValueError, TypeError, KeyError) as exc:
        raise UserError(f"what the running version leaves cannot be read: {exc}") from None


def inherited() -> tuple[Estate | None, bool]:
    """What this process is to take over, if anything, and whether it is only asked if it could.

    Raises UserError.
    """
    said = os.environ.pop(VARIABLE, "")
    if not said:
        return None, False
    asked = said.startswith("check:")
    try:
        fd = int(said.removeprefix("check:"))
    except ValueError:
        raise UserError(f"{VARIABLE} is for voicerelay's own use") from None
    estate = read_estate(fd)
    os.close(fd)
    if not asked:
        for one in estate.fds():
            os.set_inheritable(one, False)
    return estate, asked


def answer(estate: Estate | None, config: Config) -> None:
    """Say that this installation, so configured, can take over. Raises UserError when it cannot."""
    reason = estate.objection(fixed_settings(config)) if estate else "there is nothing to take over"
    if reason:
        raise UserError(reason)
    click.echo(f"{CAN_SUCCEED}: version {__version__}")


async def check(python: str, estate: Estate) -> str:
    """Ask the installation of an interpreter whether it can take over; its answer. Raises UserError."""
    fd = _write(estate)
    try:
        process = await asyncio.create_subprocess_exec(
            *_command(python),
            env=os.environ | {VARIABLE: f"check:{fd}"},
            pass_fds=[fd],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                output, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise UserError(
                f"the new version does not start within {CHECK_TIMEOUT_S:.0f} s"
            ) from None
    except OSError as exc:
        raise UserError(f"{python}: {exc.strerror}") from None
    finally:
        os.close(fd)
    lines = output.decode(errors="replace").strip().splitlines() or ["it says nothing"]
    last = lines[-1].removeprefix("voicerelay: error: ")[:MAX_REASON_CHARACTERS]
    if process.returncode or not last.startswith(CAN_SUCCEED):
        raise UserError(f"the new version cannot take over: {last}")
    return last


def become(python: str, estate: Estate) -> None:
    """Go on as that installation, in this very process; returns only to raise UserError."""
    fd = _write(estate)
    going = [*estate.fds(), fd]
    sys.stdout.flush()
    # Until the next supervisor listens, a signal waits; by default it would end us and every call.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        for one in going:
            os.set_inheritable(one, True)
        command = _command(python)
        os.execve(command[0], command, os.environ | {VARIABLE: str(fd)})
    except OSError as exc:
        for one in going:
            os.set_inheritable(one, False)
        os.close(fd)
        listen()
        raise UserError(f"{python}: {exc.strerror}") from None


def listen() -> None:
    """Let signals in that have waited during an upgrade."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def estate_children(kept: list[Kept]) -> list[dict[str, Any]]:
    """As they stand in an estate."""
    return [asdict(child) for child in kept]


def _command(python: str) -> list[str]:
    """`voicerelay start` with the options of this process."""
    return [python, "-P", "-m", "voicerelay", *sys.argv[1:]]


def _write(estate: Estate) -> int:
    fd = os.memfd_create("voicerelay-estate")
    os.write(fd, json.dumps(asdict(estate)).encode())
    return fd
