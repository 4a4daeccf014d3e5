"""One child process of the supervisor: started, watched, restarted with backoff, stopped."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from voicerelay.shm.lifeline import FAILED, MAX_REPORT_BYTES, READY

FIRST_BACKOFF_S = 0.02
LAST_BACKOFF_S = 5.0
STEADY_S = 10.0  # lived so long: its next death is a first one again


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
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline: socket.socket | None = None
        self._pidfd = -1
        self._started_at = 0.0
        self._backoff_s = FIRST_BACKOFF_S
        self._restart: asyncio.TimerHandle | None = None
        self._stopping = False
        self.exited = asyncio.Event()
        self.reported: asyncio.Future[str] = self._loop.create_future()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process; `reported` becomes "" when it is ready, else why it is not."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        if self.reported.done():
            self.reported = self._loop.create_future()
        self.exited.clear()
        self._started_at = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", self._module, self._settings(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), *self._pass_fds),
            process_group=0,  # Ctrl-C reaches the supervisor alone
        )
        theirs.close()
        self._lifeline = ours
        self._pidfd = os.pidfd_open(self._process.pid)
        self._loop.add_reader(self._pidfd, self._ended)
        self._loop.add_reader(ours.fileno(), self._reports)

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
        assert self._process is not None
        assert self._lifeline is not None
        self._reports()  # a last word may wait there
        self._loop.remove_reader(self._pidfd)
        self._loop.remove_reader(self._lifeline.fileno())
        os.close(self._pidfd)
        self._pidfd = -1
        self._lifeline.close()
        code = self._process.wait()
        self.exited.set()
        if not self.reported.done():
            self.reported.set_result(f"ended at once with exit code {code}")
        self._on_exit(self, code)
        if not self._stopping:
            if time.monotonic() - self._started_at > STEADY_S:
                self._backoff_s = FIRST_BACKOFF_S
            self._restart = self._loop.call_later(self._backoff_s, self.start)
            self._backoff_s = min(self._backoff_s * 2, LAST_BACKOFF_S)
