"""The socket pair between the supervisor and a child: reports, orders, and either end's death.

It keeps the borders of messages (SOCK_SEQPACKET): each is one report or one order.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
from collections.abc import Callable

from voicerelay.shm.order import MAX_ORDER_BYTES

READY = b"ready\n"
FAILED = b"failed "
MAX_REPORT_BYTES = 2048
_PR_SET_PDEATHSIG = 1


class Lifeline:
    """A child's end. File descriptor -1 stands for no supervisor (tests, other process managers)."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd) if fd >= 0 else None

    def ready(self) -> None:
        """Tell the supervisor that this process does its work."""
        self._tell(READY)

    def fail(self, reason: str) -> None:
        """Tell the supervisor in one line why this process cannot start."""
        line = reason.replace("\n", " ").encode(errors="backslashreplace")
        self._tell(FAILED + line[: MAX_REPORT_BYTES - 16] + b"\n")

    def stopping(self) -> None:
        """Tell a service manager that the end has begun; the supervisor asked for it."""

    def beats(self, heartbeat: Callable[[], int]) -> None:
        """Let a service manager see the heartbeat; the supervisor leaves that to control."""

    def watch(
        self, on_gone: Callable[[], None], on_order: Callable[[bytes], None] = lambda order: None
    ) -> None:
        """Call `on_gone` when the supervisor is gone (kill -9 closes its end), `on_order` when it speaks."""
        if self._socket is None:
            return
        lifeline, fd = self._socket, self._socket.fileno()
        loop = asyncio.get_running_loop()

        def readable() -> None:
            try:
                order = lifeline.recv(MAX_ORDER_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                order = b""
            if order:
                on_order(order)
                return
            loop.remove_reader(fd)
            on_gone()

        self._socket.setblocking(False)
        loop.add_reader(fd, readable)

    def _tell(self, line: bytes) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.send(line)


def die_with_parent(parent: int) -> None:
    """Have the kernel end this process with its parent, even when it is stopped or its loop hangs."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
