"""One child process of the supervisor: started, watched, restarted with backoff, replaced, stopped."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from voicerelay.shm.lifeline import FAILED, MAX_REPORT_BYTES, READY

FIRST_BACKOFF_S = 0.02
LAST_BACKOFF_S = 5.0
STEADY_S = 10.0  # lived so long: its next death is a first one again


@dataclass(frozen=True)
class Kept:
    """A running child as one supervisor leaves it to the next by exec: pid, lifeline, last report."""

    name: str
    pid: int
    lifeline: int
    ready: bool
    stopping: bool


class Child:
    """`settings(lifeline_fd)` gives the JSON for `python -m MODULE`; `on_exit` hears of each end."""

    def __init__(
        self,
        name: str,
        module: str,
        settings: Callable[[int], str],
        pass_fds: Sequence[int],
        on_exit: Callable[["Child", int], None],
    ) -> None:
        self.name = name
        self._module = module
        self._settings = settings
        self._pass_fds = pass_fds
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._process: subprocess.Popen[bytes] | None = (
            None  # None also for one that was taken over
        )
        self._pid: int | None = None
        self._lifeline: socket.socket | None = None
        self._pidfd = -1
        self._started_at = 0.0
        self._backoff_s = FIRST_BACKOFF_S
        self._restart: asyncio.TimerHandle | None = None
        self._stopping = False
        self._replacing = False
        self.exited = asyncio.Event()
        self.reported: asyncio.Future[str] = self._loop.create_future()

    @property
    def pid(self) -> int | None:
        return self._pid

    @property
    def running(self) -> bool:
        return self._pidfd >= 0

    @property
    def ready(self) -> bool:
        """Whether it runs and has said that it does its work."""
        return self.running and self.reported.done() and not self.reported.result()

    @property
    def stopping(self) -> bool:
        """Whether it is not started again when it ends."""
        return self._stopping

    def start(self) -> None:
        """Start the process; `reported` becomes "" when it is ready, else why it is not."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if self.reported.done():
            self.reported = self._loop.create_future()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", self._module, self._settings(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), *self._pass_fds),
            process_group=0,  # Ctrl-C reaches the supervisor alone
        )
        theirs.close()
        self._watch(self._process.pid, ours)

    def keep(self) -> Kept | None:
        """What the next supervisor needs to go on with it; None when it does not run."""
        if self._pid is None or self._lifeline is None:
            return None
        return Kept(self.name, self._pid, self._lifeline.fileno(), self.ready, self._stopping)

    def take_over(self, kept: Kept) -> None:
        """Go on with a process that an earlier supervisor in this very process has started."""
        self._watch(kept.pid, socket.socket(fileno=kept.lifeline))
        self._stopping = kept.stopping
        if kept.ready:
            self.reported.set_result("")

    def replace(self) -> None:
        """End the process and start its successor at once; `reported` is the successor's."""
        if self.reported.done():
            self.reported = self._loop.create_future()
        self._replacing = True
        if self._pidfd >= 0:
            self.send_signal(signal.SIGTERM)

    def tell(self, order: bytes) -> None:
        """Give an order; to a process that is gone, or does not read, it is lost."""
        if self._lifeline is not None:
            with contextlib.suppress(OSError):
                self._lifeline.send(order)

    def retire(self, order: bytes) -> None:
        """Give the order that is to be its last: it ends by itself, and is not started again."""
        self._stopping = True
        if self._restart is not None:
            self._restart.cancel()
        if self._pidfd < 0:
            self.exited.set()
        self.tell(order)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to this very process, if it still runs."""
        if self._pidfd >= 0:
            signal.pidfd_send_signal(self._pidfd, number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end; it is not restarted."""
        self._stopping = True
        if self._restart is not None:
            self._restart.cancel()
        if self._pidfd < 0:
            self.exited.set()
        else:
            self.send_signal(number)

    def _watch(self, pid: int, lifeline: socket.socket) -> None:
        lifeline.setblocking(False)
        self.exited.clear()
        self._replacing = False
        self._started_at = time.monotonic()
        self._pid = pid
        self._lifeline = lifeline
        self._pidfd = os.pidfd_open(pid)
        self._loop.add_reader(self._pidfd, self._ended)
        self._loop.add_reader(lifeline.fileno(), self._reports)

    def _reports(self) -> None:
        assert self._lifeline is not None
        try:
            line = self._lifeline.recv(MAX_REPORT_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            line = b""
        if not line:
            self._loop.remove_reader(self._lifeline.fileno())
        elif not self.reported.done():
            if line.startswith(READY):
                self.reported.set_result("")
            elif line.startswith(FAILED):
                self.reported.set_result(line[len(FAILED) :].decode(errors="replace").strip())

    def _ended(self) -> None:
        assert self._pid is not None
        assert self._lifeline is not None
        if not self._replacing:
            self._reports()  # a last word may wait there
        self._loop.remove_reader(self._pidfd)
        self._loop.remove_reader(self._lifeline.fileno())
        os.close(self._pidfd)
        self._pidfd = -1
        self._lifeline.close()
        self._lifeline = None
        code = self._process.wait() if self._process else _wait(self._pid)
        self._process = None
        self.exited.set()
        if self._replacing and not self._stopping:
            self.start()
            return
        if not self.reported.done():
            self.reported.set_result(f"ended at once with exit code {code}")
        self._on_exit(self, code)
        if not self._stopping:
            if time.monotonic() - self._started_at > STEADY_S:
                self._backoff_s = FIRST_BACKOFF_S
            self._restart = self._loop.call_later(self._backoff_s, self.start)
            self._backoff_s = min(self._backoff_s * 2, LAST_BACKOFF_S)


def _wait(pid: int) -> int:
    """Exit code of a child that has ended, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
