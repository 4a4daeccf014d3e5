"""One timer for all calls of a process: who is to speak when, 20 ms after 20 ms. Pure."""

from collections.abc import Iterator
from typing import Generic, TypeVar

from voicerelay.cli.loadtest.talk import PACKET_S

SLOTS = 5
TICK_S = PACKET_S / SLOTS
MAX_CATCH_UP = 50  # ticks; a process that is further behind leaves the rest out, and counts it

T = TypeVar("T")


class Wheel(Generic[T]):
    """Things spread evenly over 20 ms; each has its turn once in that."""

    def __init__(self, now: float) -> None:
        self._slots: list[list[T]] = [[] for _ in range(SLOTS)]
        self._at: dict[T, int] = {}
        self._origin = now
        self._ticks = 0  # that have been
        self.left_out = 0

    def __len__(self) -> int:
        return len(self._at)

    def __contains__(self, thing: T) -> bool:
        return thing in self._at

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._at))

    @property
    def next_at(self) -> float:
        return self._origin + self._ticks * TICK_S

    def add(self, thing: T) -> None:
        index = min(range(SLOTS), key=lambda slot: len(self._slots[slot]))
        self._slots[index].append(thing)
        self._at[thing] = index

    def remove(self, thing: T) -> None:
        """Also one that is not there."""
        index = self._at.pop(thing, None)
        if index is not None:
            self._slots[index].remove(thing)

    def due(self, now: float) -> Iterator[tuple[float, list[T]]]:
        """The turns up to `now`: when each was due, and whose it is."""
        behind = int((now - self.next_at) / TICK_S) - MAX_CATCH_UP
        if behind > 0:
            self._ticks += behind
            self.left_out += behind
        while self.next_at <= now:
            at, slot = self.next_at, self._slots[self._ticks % SLOTS]
            self._ticks += 1
            yield at, list(slot)
