"""Which data plane is on: the portable one needs the tables only, steering has its maps written along."""

import logging
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from voicerelay.shm.bpf import BpfMap, possible_cpus
from voicerelay.shm.counters import Block, ControlCounter
from voicerelay.shm.path import PATH_BYTES
from voicerelay.shm.table import Entry, TableWriter
from voicerelay.shm.ufrag import UFRAG_BYTES

_OWNER = struct.Struct("=II")  # slot, generation: struct owner in relay/steer.bpf.c
_U32 = struct.Struct("=I")

PROGRESS_WRITES = 1 << 14  # to a map between two signs of life: 4 µs each

Item = TypeVar("Item")

log = logging.getLogger("voicerelay.control")


class Plane:
    """The portable plane: nothing to write beside the tables."""

    def take_over(
        self, routes: TableWriter, flows: TableWriter, progress: Callable[[], None] = lambda: None
    ) -> None:
        """Make what lies beside the tables equal to them, and keep it so.

        `progress` is called now and then: large tables take seconds.
        """

    def alive(self, slot: int, generation: int) -> None:
        """A transceiver is there; generation 0: it is gone, and with it all its entries."""

    def count(self, block: Block) -> None:
        """Copy the kernel's counters to control's block."""


class _RouteMirror:
    """Routes go to every listen address's map."""

    def __init__(self, maps: list[BpfMap]) -> None:
        self._maps = maps

    def put(self, key: bytes, entry: Entry) -> None:
        for one in self._maps:
            _try_put(one, key, entry)

    def remove(self, key: bytes) -> None:
        for one in self._maps:
            one.remove(key)

    def keep_only(self, table: TableWriter, progress: Callable[[], None]) -> None:
        """Remove what the table does not have, write what it has."""
        for one in self._maps:
            kept = _steadily(one.keys(UFRAG_BYTES), progress)
            stale = [key for key in kept if key not in table]
            for key in _steadily(stale, progress):
                one.remove(key)
        for key, entry in _steadily(table.items(), progress):
            self.put(key, entry)


class _FlowMirror:
    """A flow goes to the map of its listen address, which is the first byte of its path."""

    def __init__(self, maps: list[BpfMap]) -> None:
        self._maps = maps

    def put(self, key: bytes, entry: Entry) -> None:
        if key[0] < len(self._maps):
            _try_put(self._maps[key[0]], b"\0" + key[1:], entry)

    def remove(self, key: bytes) -> None:
        if key[0] < len(self._maps):
            self._maps[key[0]].remove(b"\0" + key[1:])

    def keep_only(self, table: TableWriter, progress: Callable[[], None]) -> None:
        """Remove what the table does not have, write what it has."""
        for local, one in enumerate(self._maps):
            kept = _steadily(one.keys(PATH_BYTES), progress)
            stale = [key for key in kept if bytes([local]) + key[1:] not in table]
            for key in _steadily(stale, progress):
                one.remove(key)
        for key, entry in _steadily(table.items(), progress):
            self.put(key, entry)


class SteeringPlane(Plane):
    """Writes the maps of kernel steering. `groups`: descriptors for each listen address."""

    def __init__(self, groups: Sequence[dict[str, int]]) -> None:
        self._routes = _RouteMirror([BpfMap(g["routes"], _OWNER.size) for g in groups])
        self._flows = _FlowMirror([BpfMap(g["flows"], _OWNER.size) for g in groups])
        self._generations = [BpfMap(g["generations"], _U32.size) for g in groups]
        self._cpus = possible_cpus()
        self._counters = [BpfMap(g["counters"], 8 * self._cpus) for g in groups]

    def take_over(
        self, routes: TableWriter, flows: TableWriter, progress: Callable[[], None] = lambda: None
    ) -> None:
        self._routes.keep_only(routes, progress)
        self._flows.keep_only(flows, progress)
        routes.mirror, flows.mirror = self._routes, self._flows

    def alive(self, slot: int, generation: int) -> None:
        for one in self._generations:
            one.put(_U32.pack(slot), _U32.pack(generation))

    def count(self, block: Block) -> None:
        for index, counter in enumerate(
            (
                ControlCounter.STEERED_BY_FLOW,
                ControlCounter.STEERED_BY_UFRAG,
                ControlCounter.STEERED_TO_RELAY,
                ControlCounter.STEERED_DROPPED_NO_RELAY,
            )
        ):
            total = 0
            for one in self._counters:
                values = one.get(_U32.pack(index))
                if values is not None:
                    total += sum(struct.unpack(f"={self._cpus}Q", values))
            block.set(counter, total)


def _steadily(items: Iterable[Item], progress: Callable[[], None]) -> Iterator[Item]:
    """The items, with a sign of life now and then."""
    for number, item in enumerate(items):
        if not number % PROGRESS_WRITES:
            progress()
        yield item


def _try_put(one: BpfMap, key: bytes, entry: Entry) -> None:
    try:
        one.put(key, _OWNER.pack(entry.slot, entry.generation))
    except OSError as exc:
        # Not fatal: what the kernel does not know goes to a relay, which reads the table.
        log.warning("kernel steering: %s", exc)
