"""Where a packet goes: pure look-ups, the same answer for every relay. Holds only a checked cache."""

from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

from voicerelay.relay.demux import KINDS, Kind
from voicerelay.shm.counters import RelayCounter
from voicerelay.shm.frame import MAX_DATAGRAM_BYTES, entry_tail
from voicerelay.shm.stun import COOKIE, HEADER_BYTES, server_ufrag
from voicerelay.shm.table import KEY_BYTES, Entry, TableReader

# First bytes of what goes by its flow and by nothing else.
BY_FLOW = bytes(kind in (Kind.DTLS, Kind.RTP) for kind in KINDS)
MAX_CACHED_PATHS = 65_536  # then the cache is emptied; the tables stay the truth


class Destination(NamedTuple):
    """The transceiver (slot, generation), and the tail of the frame entry for this client."""

    target: tuple[int, int]
    tail: bytes


SourceT = TypeVar("SourceT", bound=Hashable)


class Router(Generic[SourceT]):
    """Decides for the packets of one relay socket.

    `path_of` makes a path of what the socket says a packet's source is.
    `cache`: source -> place and sequence number of its flow record, and the destination it gave;
    an entry holds while `sequences[place]` is that number, as `decide` checks it.
    """

    def __init__(
        self,
        relay: int,
        routes: TableReader,
        flows: TableReader,
        path_of: Callable[[SourceT], bytes],
    ) -> None:
        self._relay = relay
        self._routes = routes
        self._flows = flows
        self._path_of = path_of
        self.sequences = flows.sequences
        self.cache: dict[SourceT, tuple[int, int, Destination]] = {}

    def decide(self, datagram: bytes, source: SourceT) -> Destination | RelayCounter:
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
                return self._by_ufrag(datagram, source)
        elif kind is Kind.OTHER:
            return RelayCounter.DROPPED_NOT_WEBRTC
        known = self.cache.get(source)
        if known is not None and self.sequences[known[0]] == known[1]:
            return known[2]
        return self._by_flow(source)

    def _by_ufrag(self, datagram: bytes, source: SourceT) -> Destination | RelayCounter:
        ufrag = server_ufrag(datagram)
        if ufrag is None:
            return RelayCounter.DROPPED_MALFORMED_STUN
        if len(ufrag) != KEY_BYTES:
            return RelayCounter.DROPPED_UNKNOWN_UFRAG
        entry = self._routes.find(ufrag)
        if entry is None:
            return RelayCounter.DROPPED_UNKNOWN_UFRAG
        return self._to(entry, self._path_of(source))

    def _by_flow(self, source: SourceT) -> Destination | RelayCounter:
        path = self._path_of(source)
        found = self._flows.locate(path)
        if found is None:
            self.cache.pop(source, None)
            return RelayCounter.DROPPED_UNKNOWN_FLOW
        place, sequence, entry = found
        destination = self._to(entry, path)
        if len(self.cache) >= MAX_CACHED_PATHS:
            self.cache.clear()
        self.cache[source] = place, sequence, destination
        return destination

    def _to(self, entry: Entry, path: bytes) -> Destination:
        return Destination((entry.slot, entry.generation), entry_tail(self._relay, path))
