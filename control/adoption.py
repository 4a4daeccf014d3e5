"""Who reads which relay socket: a socket outlives its relay, so a sibling reads it until the successor does."""

from collections.abc import Iterator, Mapping

from voicerelay.control.peer import Action, Peer, Send
from voicerelay.shm import protocol
from voicerelay.shm.counters import Block, ControlCounter
from voicerelay.shm.protocol import RELAY

HUNG_RELAY_S = 0.2  # a heartbeat that stands still so long: a sibling reads the socket


class Adoption:
    """Keeps `holding` of the relays among `peers`; every method returns what they must be told."""

    def __init__(self, relays: int, peers: Mapping[int, Peer], block: Block) -> None:
        self._relays = relays
        self._peers = peers
        self._block = block

    def joined(self, peer_id: int, peer: Peer) -> list[Action]:
        """A relay is there, with what it says it holds: its own socket comes back to it."""
        peer.holding.add(peer.index)
        return [
            *self.give_back(peer_id, peer.index),
            *self._take_back(peer_id, peer),
            *self.adopt_orphans(),
        ]

    def adopt_orphans(self) -> list[Action]:
        """Every socket that no lively relay reads goes to the one that reads the fewest."""
        lively = {i: p for i, p in self._relay_peers() if p.still_s < HUNG_RELAY_S}
        actions: list[Action] = []
        for relay in range(self._relays):
            if not lively or any(relay in peer.holding for peer in lively.values()):
                continue
            peer_id, peer = min(lively.items(), key=lambda item: len(item[1].holding))
            peer.holding.add(relay)
            self._block.add(ControlCounter.SOCKETS_ADOPTED)
            actions.append(Send(peer_id, protocol.Adopt(relay), (RELAY, relay)))
        return actions

    def give_back(self, owner: int, relay: int) -> list[Action]:
        """Only its own relay (peer `owner`) reads this socket."""
        actions: list[Action] = []
        for peer_id, peer in self._relay_peers():
            if peer_id != owner and relay in peer.holding:
                peer.holding.discard(relay)
                actions.append(Send(peer_id, protocol.Release(relay)))
        return actions

    def _take_back(self, peer_id: int, peer: Peer) -> list[Action]:
        """Sockets that it adopted under an earlier control and whose own relays are here."""
        here = {
            p.index for i, p in self._relay_peers() if i != peer_id and p.still_s < HUNG_RELAY_S
        }
        back = sorted(peer.holding & here)
        peer.holding -= here
        return [Send(peer_id, protocol.Release(relay)) for relay in back]

    def _relay_peers(self) -> Iterator[tuple[int, Peer]]:
        return ((i, p) for i, p in self._peers.items() if p.role == RELAY)
