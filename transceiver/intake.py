"""Reads a public socket that the kernel steers packets into: many at a time, and when busy at fixed moments.

What wakes a process costs more than the packet it brings: the caches are cold, and so is the way
back to sleep. While packets come all the time the socket is therefore looked at every LOOK_S, in
the same moments in which the pacer sends; a lone packet is read at once.
"""

import asyncio
import math
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from voicerelay.shm.frame import MAX_DATAGRAM_BYTES
from voicerelay.shm.receive import MAX_BATCH, Batch, Source, source_path
from voicerelay.transceiver.voice.pacer import SLOT_S

LOOK_S: Final = (
    2 * SLOT_S
)  # a fifth of a voice frame; the pacer's timer goes off in the same moment
WEIGHT: Final = 0.25  # of the newest look in the average
BUSY: Final = 1.0  # packets that come in LOOK_S, on average
MAX_CACHED_PATHS: Final = 16_384


class Taker(Protocol):
    """Who is given the datagrams."""

    def sort(self, headers: int, count: int, local: int) -> Sequence[int]:
        """Take what can be taken together of what recvmmsg has described; the indices of the others."""

    def take(self, data: bytes, path: bytes, relay: int | None) -> None:
        """One of those that have come together."""

    def refuse(self) -> None:
        """One that is empty or too long."""

    def hand_on(self) -> None:
        """That was the last."""


class Intake:
    """One public socket's; `local` is the index of its listen address."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        local: int,
        sock: socket.socket,
        taker: Taker,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loop = loop
        self._local = local
        self._fd = sock.fileno()
        self._taker = taker
        self._clock = clock
        self._batch = Batch(sock.family)
        self._paths: dict[Source, bytes] = {}
        self._looked_at = 0.0
        self._coming = 0.0  # packets in LOOK_S, on average
        self._timer: asyncio.TimerHandle | None = None
        loop.add_reader(self._fd, self._readable)

    def close(self) -> None:
        """Read no more; the socket is its owner's."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        else:
            self._loop.remove_reader(self._fd)

    def _readable(self) -> None:
        """Something has come to an idle socket."""
        if self._drain():
            self._loop.remove_reader(self._fd)
            self._arm()

    def _look(self) -> None:
        """The moment for a look at a busy one."""
        self._timer = None
        if self._drain():
            self._arm()
        else:
            self._loop.add_reader(self._fd, self._readable)

    def _arm(self) -> None:
        slot = math.floor(self._clock() / LOOK_S) + 1
        self._timer = self._loop.call_at(slot * LOOK_S, self._look)

    def _drain(self) -> bool:
        """Hand on what has come, at most MAX_BATCH; whether to wait before the next look."""
        batch, taker = self._batch, self._taker
        count = batch.receive(self._fd)
        left = taker.sort(batch.headers, count, self._local) if count else ()
        if left:
            self._take(left, count)
        taker.hand_on()
        return self._busy(count, self._clock()) and count < MAX_BATCH

    def _take(self, left: Sequence[int], count: int) -> None:
        batch, taker, path_of = self._batch, self._taker, self._paths.get
        store, sizes, places, sources = (
            batch.store,
            batch.sizes,
            batch.places,
            batch.sources(count),
        )
        for index in left:
            start, at = places[index]
            size, source = sizes[at], sources[index]
            if 0 < size <= MAX_DATAGRAM_BYTES:
                path = path_of(source) or self._meet(source)
                taker.take(bytes(store[start : start + size]), path, None)
            else:
                taker.refuse()

    def _busy(self, count: int, now: float) -> bool:
        """Whether waiting for LOOK_S will bring a packet."""
        waits = max(1.0, (now - self._looked_at) / LOOK_S)
        self._looked_at = now
        self._coming += WEIGHT * (count / waits - self._coming)
        return self._coming >= BUSY

    def _meet(self, source: Source) -> bytes:
        if len(self._paths) >= MAX_CACHED_PATHS:
            self._paths.clear()
        path = self._paths[source] = source_path(self._local, source)
        return path
