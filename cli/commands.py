"""What may be asked of a running supervisor, and the Unix socket that it is asked by.

Each message is one JSON object in one packet: a command, then any number of {"say": text}, at the latest
{"switched": true} when nothing can fail any more, and one {"done": text} or {"error": text}.
"""

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from voicerelay.cli.errors import UserError
from voicerelay.shm.counters import MAX_TRANSCEIVERS
from voicerelay.shm.order import MAX_DEADLINE_S
from voicerelay.shm.rundir import SOCKET_MODE

KINDS = ("drain", "undrain", "reload", "upgrade", "stop")
MAX_COMMAND_BYTES = 8192
MAX_MESSAGE_BYTES = 16384
MAX_ASKERS = 16
READ_DEADLINE_S = 3.0
MAX_TEXT_CHARACTERS = 4096
_UCRED = struct.Struct("iii")

log = logging.getLogger("voicerelay")


@dataclass(frozen=True)
class Command:
    """`slots`: empty for all transceivers. `python`: the interpreter of the installation to change to."""

    kind: str
    deadline_s: int | None = None
    slots: list[int] = field(default_factory=list)
    drain: bool = False
    python: str = ""

    def encode(self) -> bytes:
        return json.dumps(self.__dict__).encode()


def parse_command(data: bytes) -> Command:
    """Raises ValueError for anything that is no command, and nothing else."""
    try:
        given: Any = json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(given, dict) or not set(given) <= set(Command.__dataclass_fields__):
        raise ValueError("not a command")
    if given.get("kind") not in KINDS:
        raise ValueError("no such command")
    command = Command(**given)
    right = (
        (command.deadline_s is None or _between(command.deadline_s, MAX_DEADLINE_S))
        and isinstance(command.slots, list)
        and len(command.slots) <= MAX_TRANSCEIVERS
        and all(_between(slot, MAX_TRANSCEIVERS - 1) for slot in command.slots)
        and isinstance(command.drain, bool)
        and isinstance(command.python, str)
        and len(command.python) <= MAX_TEXT_CHARACTERS
    )
    if not right:
        raise ValueError("a value of another kind")
    return command


def trusted(uid: int) -> bool:
    """Whether commands of a user are taken: an upgrade runs what its asker names."""
    return uid in (0, os.geteuid())


def _between(value: object, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


class Asker:
    """Whoever gave a command: hears how it goes on. None of it waits for a reader."""

    def __init__(self, sock: socket.socket | None) -> None:
        self._socket = sock

    @classmethod
    def of(cls, fd: int) -> "Asker":
        """Again, from its descriptor."""
        return cls(socket.socket(fileno=fd) if fd >= 0 else None)

    def say(self, text: str) -> None:
        log.info("%s", text)
        self._send({"say": text})

    def switched(self) -> None:
        """From here on nothing of what was asked can fail."""
        self._send({"switched": True})

    def done(self, text: str) -> None:
        log.info("%s", text)
        self._send({"done": text})

    def fail(self, reason: str) -> None:
        log.error("%s", reason)
        self._send({"error": reason})

    def fileno(self) -> int:
        """Its descriptor, -1 for a signal's."""
        return -1 if self._socket is None else self._socket.fileno()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def _send(self, message: dict[str, Any]) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.send(json.dumps(message).encode(), socket.MSG_DONTWAIT)


class Desk:
    """Takes commands at a Unix socket, from this user and root; `obey` does them, each in a task."""

    def __init__(
        self, path: Path, obey: Callable[[Command, Asker], Coroutine[Any, Any, None]]
    ) -> None:
        self._path = path
        self._obey = obey
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self._listener.bind(str(path))
        path.chmod(SOCKET_MODE)
        self._listener.listen(MAX_ASKERS)
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def give(self, command: Command, asker: Asker) -> None:
        """Do a command that came another way, such as by a signal."""
        self._begin(self._obeyed(command, asker))

    async def close(self) -> None:
        """Take no more, and let go of what is under way."""
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        sock.setblocking(False)
        _, uid, _ = _UCRED.unpack(
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        )
        if not trusted(uid) or len(self._tasks) >= MAX_ASKERS:
            sock.close()
            return
        self._begin(self._serve(sock))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, sock: socket.socket) -> None:
        asker = Asker(sock)
        try:
            async with asyncio.timeout(READ_DEADLINE_S):
                data = await self._loop.sock_recv(sock, MAX_COMMAND_BYTES)
            command = parse_command(data)
        except (OSError, TimeoutError, ValueError) as exc:
            asker.fail(f"not understood: {exc}")
            asker.close()
            return
        await self._obeyed(command, asker)

    async def _obeyed(self, command: Command, asker: Asker) -> None:
        try:
            await self._obey(command, asker)
        except UserError as exc:
            asker.fail(exc.message)
        except Exception:
            log.exception("%s", command.kind)
            asker.fail("the supervisor made a mistake; it has been logged")
        finally:
            asker.close()
