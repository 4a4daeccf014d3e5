"""A relay's links to the transceivers: one Unix SOCK_SEQPACKET each, never blocking."""

import socket
import time
from collections.abc import Callable
from pathlib import Path

from voicerelay.shm.counters import RelayCounter
from voicerelay.shm.rundir import frames_socket

RETRY_S = 0.05  # between two attempts to reach a transceiver that does not answer
SEND_BUFFER_BYTES = 1 << 20  # capped by the system's wmem_max
MAX_LINKS = 1024  # dead ones included, until they are retried


class Links:
    """Sends frames to (slot, generation); opens a link when first needed."""

    def __init__(self, run_dir: Path, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._run_dir = run_dir
        self._open: dict[tuple[int, int], socket.socket] = {}
        self._retry_at: dict[tuple[int, int], float] = {}

    def send(self, target: tuple[int, int], frame: bytes) -> RelayCounter | None:
        """None when the transceiver has the frame, else why its packets are dropped."""
        link = self._open.get(target) or self._connect(target)
        if link is None:
            return RelayCounter.DROPPED_TRANSCEIVER_GONE
        try:
            link.send(frame)
        except (BlockingIOError, InterruptedError):
            return RelayCounter.DROPPED_QUEUE_FULL
        except OSError:
            self._open.pop(target).close()
            self._retry_at[target] = self._now() + RETRY_S
            return RelayCounter.DROPPED_TRANSCEIVER_GONE
        return None

    def close(self) -> None:
        for link in self._open.values():
            link.close()
        self._open.clear()

    def _connect(self, target: tuple[int, int]) -> socket.socket | None:
        now = self._now()
        if now < self._retry_at.get(target, 0.0):
            return None
        if len(self._retry_at) > MAX_LINKS:
            self._retry_at.clear()
        link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            link.connect(str(frames_socket(self._run_dir, *target)))
        except OSError:
            link.close()
            self._retry_at[target] = now + RETRY_S
            return None
        self._retry_at.pop(target, None)
        for stale in [t for t in self._open if t[0] == target[0]]:
            self._open.pop(stale).close()
        self._open[target] = link
        return link
