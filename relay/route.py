"""Where a packet goes: pure look-ups, the same answer for every relay. Holds only a checked cache."""

from typing import NamedTuple

from voicerelay.relay.demux import KINDS, Kind
from voicerelay.shm.counters import RelayCounter
from voicerelay.shm.frame import MAX_DATAGRAM_BYTES, entry_tail
from voicerelay.shm.path import Address, pack_path
from voicerelay.shm.stun import COOKIE, HEADER_BYTES, server_ufrag
from voicerelay.shm.table import KEY_BYTES, Entry, TableReader

MAX_CACHED_PATHS = 65_536  # then the cache is emptied; the tables stay the truth


class Destination(NamedTuple):
    """The transceiver (slot, generation), and the tail of the frame entry for this client."""

    target: tuple[int, int]
    tail: bytes


class Router:
    """Decides for the packets of one relay socket, by its relay's index and listen address."""

    def __init__(self, relay: int, local: int, routes: TableReader, flows: TableReader) -> None:
        self._relay = relay
        self._local = local
        self._routes = routes
        self._flows = flows
        self._sequences = flows.sequences
        # address -> place and sequence number of its flow record, and the destination it gave
        self._cache: dict[Address, tuple[int, int, Destination]] = {}

    def decide(self, datagram: bytes, address: Address) -> Destination | RelayCounter:
        """Law 1: a Binding request goes by its ufrag, everything else by its flow.

        Anything that goes nowhere is the counter of its drop.
        """
        size = len(datagram)
        if not size:
            return RelayCounter.DROPPED_EMPTY
        if size > MAX_DATAGRAM_BYTES:
            return RelayCounter.DROPPED_OVERSIZED
        kind = KINDS[datagram[0]]
        if kind is Kind.STUN:
            if size < HEADER_BYTES or datagram[4:8] != COOKIE:
                return RelayCounter.DROPPED_MALFORMED_STUN
            if datagram[:2] == b"\x00\x01":  # Binding request
                return self._by_ufrag(datagram, address)
        elif kind is Kind.OTHER:
            return RelayCounter.DROPPED_NOT_WEBRTC
        known = self._cache.get(address)
        if known is not None and self._sequences[known[0]] == known[1]:
            return known[2]
        return self._by_flow(address)

    def _by_ufrag(self, datagram: bytes, address: Address) -> Destination | RelayCounter:
        ufrag = server_ufrag(datagram)
        if ufrag is None:
            return RelayCounter.DROPPED_MALFORMED_STUN
        if len(ufrag) != KEY_BYTES:
            return RelayCounter.DROPPED_UNKNOWN_UFRAG
        entry = self._routes.find(ufrag)
        if entry is None:
            return RelayCounter.DROPPED_UNKNOWN_UFRAG
        return self._to(entry, pack_path(self._local, address[0], address[1]))

    def _by_flow(self, address: Address) -> Destination | RelayCounter:
        path = pack_path(self._local, address[0], address[1])
        found = self._flows.locate(path)
        if found is None:
            self._cache.pop(address, None)
            return RelayCounter.DROPPED_UNKNOWN_FLOW
        place, sequence, entry = found
        destination = self._to(entry, path)
        if len(self._cache) >= MAX_CACHED_PATHS:
            self._cache.clear()
        self._cache[address] = place, sequence, destination
        return destination

    def _to(self, entry: Entry, path: bytes) -> Destination:
        return Destination((entry.slot, entry.generation), entry_tail(self._relay, path))
