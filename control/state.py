"""What control knows and decides, without a socket or a clock: peers, tables, who reads which socket."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from voicerelay.control.plane import Plane
from voicerelay.shm import protocol
from voicerelay.shm.counters import ControlCounter, Counters
from voicerelay.shm.protocol import RELAY, Message
from voicerelay.shm.region import ABI, Region
from voicerelay.shm.table import PROGRESS_RECORDS, Entry, TableFull, TableWriter

HUNG_RELAY_S = 0.2  # a heartbeat that stands still so long: a sibling reads the socket
KILL_RELAY_S = 0.28  # and so long: the relay is ended, its successor takes the socket back
HUNG_TRANSCEIVER_S = 5.0  # its calls are lost anyway; end it so that new ones work
REPLAY_GRACE_S = 3.0  # after control's start: records nobody replayed are removed
COUNT_S = 1.0  # between two looks at the kernel's counters
MAX_TICK_S = 0.15  # a longer gap between two looks means that control itself was held up


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message; `sockets_of`: with the public sockets of that (role, index)."""

    peer: int
    message: Message
    sockets_of: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Close:
    """Close a connection after what was sent."""

    peer: int
    reason: str


@dataclass(frozen=True, slots=True)
class Kill:
    """End a hung process."""

    peer: int
    reason: str


Action = Send | Close | Kill


@dataclass(slots=True)
class Peer:
    """A connected relay or transceiver. `still_s`: how long its heartbeat has not moved."""

    role: str
    index: int
    generation: int
    holding: set[int] = field(default_factory=set)
    heartbeat_ns: int = 0
    still_s: float = 0.0
    killed: bool = False
    replayed: set[bytes] | None = None  # keys seen since a reconnect, until ReplayDone


class ControlState:
    """Every method returns the actions for the I/O shell to carry out, in order."""

    def __init__(self, region: Region, relays: int, now: float, plane: Plane | None = None) -> None:
        self._region = region
        self._counters: Counters = region.counters
        self.block = self._counters.control()
        self._routes: TableWriter = region.route_writer(self.block.beat)
        self._flows: TableWriter = region.flow_writer(self.block.beat)
        self._relays = relays
        self._peers: dict[int, Peer] = {}
        self._owned: dict[tuple[int, int], tuple[set[bytes], set[bytes]]] = {}
        self._started = now
        self._last_tick = now
        self._purged = False
        for table, which in ((self._routes, 0), (self._flows, 1)):
            for number, (key, entry) in enumerate(table.items()):
                self._keys_of(entry.slot, entry.generation)[which].add(key)
                if not number % PROGRESS_RECORDS:
                    self.block.beat()
        self._plane = plane or Plane()
        self._steered = plane is not None
        self._plane.take_over(self._routes, self._flows)
        self._counted_at = now
        self._note_sizes()

    @property
    def repaired(self) -> int:
        """Half-written records found at the start."""
        return self._routes.repaired + self._flows.repaired

    # ---- peers -------------------------------------------------------------------------------

    def hello(self, peer_id: int, message: protocol.Hello) -> list[Action]:
        """A connection says who it is; refused when version, number or claim do not fit."""
        reason = self._objection(message)
        if reason:
            self.block.add(ControlCounter.REQUESTS_REFUSED)
            return [Send(peer_id, protocol.Refused(reason)), Close(peer_id, reason)]
        generation = message.generation or self._region.next_generation()
        peer = Peer(message.role, message.index, generation, set(message.holding))
        if message.role == RELAY:
            peer.holding.add(message.index)
        elif message.generation:
            peer.replayed = set()
        self._peers[peer_id] = peer
        self.block.set(ControlCounter.PEERS, len(self._peers))
        if message.role != RELAY:
            self._plane.alive(message.index, generation)
        actions: list[Action] = [
            Send(
                peer_id,
                protocol.Welcome(
                    self._region.instance,
                    self._region.name,
                    generation,
                    self._region.cluster_key,
                    self._steered and message.role != RELAY,
                ),
                self._sockets_for(message),
            )
        ]
        if message.role == RELAY:
            actions += self._give_back(peer_id, message.index)
            actions += self._take_back(peer_id, peer)
            actions += self._adopt_orphans()
        return actions

    def gone(self, peer_id: int) -> list[Action]:
        """A connection ended: its process died, or control refused it."""
        peer = self._peers.pop(peer_id, None)
        if peer is None:
            return []
        self.block.set(ControlCounter.PEERS, len(self._peers))
        if peer.role == RELAY:
            self._counters.relay(peer.index).clear()
            return self._adopt_orphans()
        self._plane.alive(peer.index, 0)
        self._counters.transceiver(peer.index).clear()
        self._forget(peer.index, peer.generation)
        return []

    def message(self, peer_id: int, message: Message, now_ms: int) -> list[Action]:
        """A message of a known peer."""
        peer = self._peers[peer_id]
        if peer.role == RELAY:
            return [Close(peer_id, f"a relay sent {type(message).__name__}")]
        match message:
            case protocol.RegisterRoute(request, ufrag, session):
                return self._register(peer_id, peer, request, ufrag, session, now_ms)
            case protocol.CommitFlow(request, path, session):
                return self._commit(peer_id, peer, request, path, session, now_ms)
            case protocol.UnregisterRoute(ufrag):
                self._remove(self._routes, 0, peer, ufrag, None)
            case protocol.ReleaseFlow(path, session):
                self._remove(self._flows, 1, peer, path, session)
            case protocol.Replay(routes, flows):
                return self._replay(peer, routes, flows, now_ms)
            case protocol.ReplayDone():
                self._replay_done(peer)
            case _:
                return [Close(peer_id, f"a transceiver sent {type(message).__name__}")]
        self._note_sizes()
        return []

    def tick(self, now: float) -> list[Action]:
        """Look at the heartbeats; call every 50 ms or so."""
        elapsed = now - self._last_tick
        self._last_tick = now
        actions: list[Action] = []
        for peer_id, peer in list(self._peers.items()):
            actions += self._look_at(peer_id, peer, elapsed)
        if now - self._counted_at > COUNT_S:
            self._counted_at = now
            self._plane.count(self.block)
        if not self._purged and now - self._started > REPLAY_GRACE_S:
            self._purged = True
            self._purge_unclaimed()
        return actions

    # ---- relays ------------------------------------------------------------------------------

    def _look_at(self, peer_id: int, peer: Peer, elapsed: float) -> list[Action]:
        is_relay = peer.role == RELAY
        block = (
            self._counters.relay(peer.index) if is_relay else self._counters.transceiver(peer.index)
        )
        if block.heartbeat_ns != peer.heartbeat_ns or elapsed > MAX_TICK_S:
            was_hung = peer.still_s >= HUNG_RELAY_S
            peer.heartbeat_ns, peer.still_s = block.heartbeat_ns, 0.0
            # It only stumbled: the socket is its own again.
            return self._give_back(peer_id, peer.index) if is_relay and was_hung else []
        peer.still_s += elapsed
        if peer.killed:
            return []
        if peer.still_s >= (KILL_RELAY_S if is_relay else HUNG_TRANSCEIVER_S):
            peer.killed = True
            kind = ControlCounter.RELAYS_KILLED if is_relay else ControlCounter.TRANSCEIVERS_KILLED
            self.block.add(kind)
            return [Kill(peer_id, f"{peer.role} {peer.index} hangs")]
        return self._adopt_orphans() if is_relay and peer.still_s >= HUNG_RELAY_S else []

    def _relay_peers(self) -> Iterator[tuple[int, Peer]]:
        return ((i, p) for i, p in self._peers.items() if p.role == RELAY)

    def _adopt_orphans(self) -> list[Action]:
        """Every socket that no lively relay reads goes to the one that reads the fewest."""
        lively = {i: p for i, p in self._relay_peers() if p.still_s < HUNG_RELAY_S}
        actions: list[Action] = []
        for relay in range(self._relays):
            if not lively or any(relay in peer.holding for peer in lively.values()):
                continue
            peer_id, peer = min(lively.items(), key=lambda item: len(item[1].holding))
            peer.holding.add(relay)
            self.block.add(ControlCounter.SOCKETS_ADOPTED)
            actions.append(Send(peer_id, protocol.Adopt(relay), (RELAY, relay)))
        return actions

    def _take_back(self, peer_id: int, peer: Peer) -> list[Action]:
        """Sockets that it adopted under an earlier control and whose own relays are here."""
        here = {
            p.index for i, p in self._relay_peers() if i != peer_id and p.still_s < HUNG_RELAY_S
        }
        back = sorted(peer.holding & here)
        peer.holding -= here
        return [Send(peer_id, protocol.Release(relay)) for relay in back]

    def _sockets_for(self, message: protocol.Hello) -> tuple[str, int]:
        if message.role == RELAY or self._steered:
            return message.role, message.index
        # A transceiver sends from any public socket; spreading them spreads the socket locks.
        return RELAY, message.index % self._relays

    def _give_back(self, owner: int, relay: int) -> list[Action]:
        actions: list[Action] = []
        for peer_id, peer in self._relay_peers():
            if peer_id != owner and relay in peer.holding:
                peer.holding.discard(relay)
                actions.append(Send(peer_id, protocol.Release(relay)))
        return actions

    # ---- tables ------------------------------------------------------------------------------

    def _register(
        self, peer_id: int, peer: Peer, request: int, ufrag: bytes, session: int, now_ms: int
    ) -> list[Action]:
        held = self._routes.find(ufrag)
        if held and (held.slot, held.generation) != (peer.index, peer.generation):
            return self._refuse(peer_id, request, "ufrag belongs to another transceiver")
        try:
            self._routes.put(ufrag, Entry(peer.index, peer.generation, session, now_ms))
        except TableFull:
            return self._refuse(peer_id, request, "route table full")
        self._keys_of(peer.index, peer.generation)[0].add(ufrag)
        self._note_sizes()
        return [Send(peer_id, protocol.Done(request, ""))]

    def _commit(
        self, peer_id: int, peer: Peer, request: int, path: bytes, session: int, now_ms: int
    ) -> list[Action]:
        held = self._flows.find(path)
        try:
            self._flows.put(path, Entry(peer.index, peer.generation, session, now_ms))
        except TableFull:
            return self._refuse(peer_id, request, "flow table full")
        self._keys_of(peer.index, peer.generation)[1].add(path)
        self._note_sizes()
        actions: list[Action] = [Send(peer_id, protocol.Done(request, ""))]
        if held and (held.slot, held.generation) != (peer.index, peer.generation):
            self._keys_of(held.slot, held.generation)[1].discard(path)
            for other_id, other in self._peers.items():
                if (other.index, other.generation) == (held.slot, held.generation):
                    actions.append(Send(other_id, protocol.FlowLost(path, held.session)))
        return actions

    def _replay(
        self, peer: Peer, routes: list[list[bytes]], flows: list[list[bytes]], now_ms: int
    ) -> list[Action]:
        if peer.replayed is None:
            return []
        owned = self._keys_of(peer.index, peer.generation)
        for table, keys, entries in (
            (self._routes, owned[0], routes),
            (self._flows, owned[1], flows),
        ):
            for key, session in entries:
                held = table.find(key)
                if held and (held.slot, held.generation) != (peer.index, peer.generation):
                    continue  # somebody else proved it later
                try:
                    table.put(key, Entry(peer.index, peer.generation, int(session), now_ms))
                except TableFull:
                    self.block.add(ControlCounter.REQUESTS_REFUSED)
                    continue
                keys.add(key)
                peer.replayed.add(key)
        self._note_sizes()
        return []

    def _replay_done(self, peer: Peer) -> None:
        if peer.replayed is None:
            return
        owned = self._keys_of(peer.index, peer.generation)
        for table, keys in zip((self._routes, self._flows), owned, strict=True):
            for key in keys - peer.replayed:
                table.remove(key)
            keys.intersection_update(peer.replayed)
        peer.replayed = None

    def _remove(
        self, table: TableWriter, which: int, peer: Peer, key: bytes, session: int | None
    ) -> None:
        """A transceiver may remove its own records only."""
        held = table.find(key)
        if held is None or (held.slot, held.generation) != (peer.index, peer.generation):
            return
        if session is None or held.session == session:
            table.remove(key)
            self._keys_of(peer.index, peer.generation)[which].discard(key)

    def _forget(self, slot: int, generation: int) -> None:
        for table, keys in zip(
            (self._routes, self._flows), self._owned.pop((slot, generation), ((), ())), strict=True
        ):
            for key in keys:
                table.remove(key)
        self._note_sizes()

    def _purge_unclaimed(self) -> None:
        living = {(p.index, p.generation) for p in self._peers.values() if p.role != RELAY}
        for slot, generation in set(self._owned) - living:
            self._forget(slot, generation)

    def _keys_of(self, slot: int, generation: int) -> tuple[set[bytes], set[bytes]]:
        return self._owned.setdefault((slot, generation), (set(), set()))

    def _refuse(self, peer_id: int, request: int, reason: str) -> list[Action]:
        self.block.add(ControlCounter.REQUESTS_REFUSED)
        return [Send(peer_id, protocol.Done(request, reason))]

    def _note_sizes(self) -> None:
        self.block.set(ControlCounter.ROUTES, len(self._routes))
        self.block.set(ControlCounter.FLOWS, len(self._flows))

    def _objection(self, message: protocol.Hello) -> str:
        """Why a hello must be refused; empty when it may not."""
        if message.protocol != protocol.PROTOCOL:
            return f"control speaks protocol {protocol.PROTOCOL}, the peer {message.protocol}"
        if message.abi != ABI:
            return f"the tables have ABI {ABI}, the peer expects {message.abi}"
        if message.role == RELAY and message.index >= self._relays:
            return f"there is no relay {message.index}"
        for peer in self._peers.values():
            if (peer.role, peer.index) == (message.role, message.index):
                return f"{message.role} {message.index} is connected already"
        return ""
