"""What systemd and a service tell each other: sd_notify(3), sd_listen_fds(3) and the watchdog, in a few lines."""

import array
import contextlib
import logging
import os
import socket
from asyncio import get_running_loop
from collections.abc import Callable, MutableMapping, Sequence

from voicerelay.shm.lifeline import Lifeline

FIRST_FD = 3
MAX_FDS = 4096
MAX_STATUS_BYTES = 1024
UNNAMED = "unknown"  # as sd_listen_fds_with_names(3) says it
_WATCHDOG_MARGIN = 2  # pings in the time that the manager waits for one

log = logging.getLogger("voicerelay")

Environment = MutableMapping[str, str]


def listen_fds(environ: Environment, pid: int) -> dict[str, list[int]]:
    """Inherited descriptors by the name of each, in the order given; their variables are taken out.

    Empty when there are none, when they are another process's, or when the count makes no sense.
    """
    owner, count, names = (environ.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES"))
    number = _number(count)
    if _number(owner) != pid or number > MAX_FDS:
        return {}
    named = names.split(":") if names else []
    named += [UNNAMED] * (number - len(named))
    found: dict[str, list[int]] = {}
    for fd, name in zip(range(FIRST_FD, FIRST_FD + number), named, strict=False):
        found.setdefault(name or UNNAMED, []).append(fd)
    return found


def watchdog_s(environ: Environment, pid: int) -> float:
    """How often the manager wants a sign of life, twice in its patience; 0 when it wants none."""
    patience, owner = (environ.pop(f"WATCHDOG_{name}", "") for name in ("USEC", "PID"))
    if owner and _number(owner) != pid:
        return 0.0
    return _number(patience) / 1e6 / _WATCHDOG_MARGIN


def notify_address(environ: Environment) -> str:
    """Where the manager listens, as `sendmsg` takes it; empty when there is none."""
    path = environ.pop("NOTIFY_SOCKET", "")
    if path.startswith("@"):
        return "\0" + path[1:]
    return path if path.startswith("/") else ""


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0


class Managed(Lifeline):
    """The lifeline of a process that a service manager started; its end needs no watching.

    Takes the variables out of `environ`, so that nothing an agent starts speaks in our name.
    """

    def __init__(self, environ: Environment, pid: int) -> None:
        super().__init__(-1)
        self._address = notify_address(environ)
        self._watchdog_s = watchdog_s(environ, pid)
        self._beaten = -1
        self.failed = False
        self.fds = listen_fds(environ, pid)
        for fds in self.fds.values():
            for fd in fds:
                os.set_inheritable(fd, False)

    def ready(self) -> None:
        """Tell the manager that this process does its work."""
        self._notify("READY=1")

    def fail(self, reason: str) -> None:
        """Tell the manager, and the log, in one line why this process cannot start."""
        line = reason.replace("\n", " ")
        log.error("%s", line)
        self.failed = True
        shown = line.encode(errors="backslashreplace")[:MAX_STATUS_BYTES]
        self._notify(f"STATUS={shown.decode(errors='ignore')}")

    def stopping(self) -> None:
        """Tell the manager that the end has begun."""
        self._notify("STOPPING=1")

    def beats(self, heartbeat: Callable[[], int]) -> None:
        """Give the manager its sign of life as long as `heartbeat()` moves (law 6)."""
        if not self._watchdog_s:
            return
        beat = heartbeat()
        if beat != self._beaten:
            self._beaten = beat
            self._notify("WATCHDOG=1")
        get_running_loop().call_later(self._watchdog_s, self.beats, heartbeat)

    def keep(self, name: str, fds: Sequence[int]) -> None:
        """Have the manager hold descriptors, for whoever comes after this process."""
        for fd in fds:  # one a message: the order stays
            self._notify(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", [fd])

    def forget(self, name: str) -> None:
        """Have the manager close what it holds by this name."""
        self._notify(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def _notify(self, state: str, fds: Sequence[int] = ()) -> None:
        if not self._address:
            return
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendmsg([state.encode()], rights, 0, self._address)
