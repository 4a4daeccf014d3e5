"""Where a packet goes: pure look-ups, the same answer for every relay. Holds only a checked cache."""

from voicerelay.relay.demux import KINDS, Kind
from voicerelay.shm.counters import RelayCounter
from voicerelay.shm.frame import MAX_DATAGRAM_BYTES
from voicerelay.shm.path import Address, pack_path
from voicerelay.shm.stun import BINDING_REQUEST, COOKIE, HEADER_BYTES, server_ufrag
from voicerelay.shm.table import KEY_BYTES, TableReader

MAX_CACHED_PATHS = 65_536  # then the cache is emptied; the tables stay the truth


class Router:
    """Decides for the packets of one listen address.

    A destination is (slot, generation, path); anything else is the counter of the drop.
    """

    def __init__(self, local: int, routes: TableReader, flows: TableReader) -> None:
        self._local = local
        self._routes = routes
        self._flows = flows
        # address -> offset and sequence of its flow record, and the destination it gave
        self._cache: dict[Address, tuple[int, int, tuple[int, int, bytes]]] = {}

    def decide(self, datagram: bytes, address: Address) -> tuple[int, int, bytes] | RelayCounter:
        """Law 1: a Binding request goes by its ufrag, everything else by its flow."""
        size = len(datagram)
        if not size:
            return RelayCounter.DROPPED_EMPTY
        if size > MAX_DATAGRAM_BYTES:
            return RelayCounter.DROPPED_OVERSIZED
        kind = KINDS[datagram[0]]
        if kind is Kind.OTHER:
            return RelayCounter.DROPPED_NOT_WEBRTC
        if kind is Kind.STUN:
            if size < HEADER_BYTES or datagram[4:8] != COOKIE:
                return RelayCounter.DROPPED_MALFORMED_STUN
            if int.from_bytes(datagram[:2], "big") == BINDING_REQUEST:
                return self._by_ufrag(datagram, address)
        return self._by_flow(address)

    def _by_ufrag(self, datagram: bytes, address: Address) -> tuple[int, int, bytes] | RelayCounter:
        ufrag = server_ufrag(datagram)
        if ufrag is None:
            return RelayCounter.DROPPED_MALFORMED_STUN
        if len(ufrag) != KEY_BYTES:
            return RelayCounter.DROPPED_UNKNOWN_UFRAG
        entry = self._routes.find(ufrag)
        if entry is None:
            return RelayCounter.DROPPED_UNKNOWN_UFRAG
        return entry.slot, entry.generation, pack_path(self._local, address[0], address[1])

    def _by_flow(self, address: Address) -> tuple[int, int, bytes] | RelayCounter:
        cached = self._cache.get(address)
        if cached is not None and self._flows.unchanged(cached[0], cached[1]):
            return cached[2]
        path = pack_path(self._local, address[0], address[1])
        found = self._flows.locate(path)
        if found is None:
            self._cache.pop(address, None)
            return RelayCounter.DROPPED_UNKNOWN_FLOW
        offset, sequence, entry = found
        destination = entry.slot, entry.generation, path
        if len(self._cache) >= MAX_CACHED_PATHS:
            self._cache.clear()
        self._cache[address] = offset, sequence, destination
        return destination
