"""What control knows and decides, without a socket or a clock: peers, their hearts, their records."""

from voicerelay.control.adoption import HUNG_RELAY_S, Adoption
from voicerelay.control.peer import Action, Close, Kill, Peer, Send
from voicerelay.control.plane import Plane
from voicerelay.control.records import Records
from voicerelay.control.starvation import IsStopped, Look, is_stopped, starves, ticks_if_runnable
from voicerelay.shm import protocol
from voicerelay.shm.counters import ControlCounter, Counters
from voicerelay.shm.protocol import RELAY, Message
from voicerelay.shm.region import ABI, Region
from voicerelay.shm.table import Entry, TableFull

KILL_RELAY_S = 0.28  # a heartbeat that stands still so long: the relay is ended, for a successor
STARVING_RELAY_S = 2.0  # it only waits for a core, as its successor would
HUNG_TRANSCEIVER_S = 5.0  # its calls are lost anyway; end it so that new ones work
REPLAY_GRACE_S = 3.0  # after control's start: records nobody replayed are removed
COUNT_S = 1.0  # between two looks at the kernel's counters
MAX_SWEPT = 256  # void records removed in one turn of the loop: a few milliseconds
MAX_TICK_S = 0.15  # a longer gap between two looks means that control itself was held up


class ControlState:
    """Every method returns the actions for the I/O shell to carry out, in order."""

    def __init__(
        self,
        region: Region,
        relays: int,
        now: float,
        plane: Plane | None = None,
        look: Look = ticks_if_runnable,
        stopped: IsStopped = is_stopped,
    ) -> None:
        self._region = region
        self._look = look
        self._stopped = stopped
        self._counters: Counters = region.counters
        self.block = self._counters.control()
        beat = self.block.beat  # large tables take seconds
        routes, flows = region.route_writer(beat), region.flow_writer(beat)
        self._repaired = routes.repaired + flows.repaired
        self._routes, self._flows = Records(routes, beat), Records(flows, beat)
        self._relays = relays
        self._peers: dict[int, Peer] = {}
        self._adoption = Adoption(relays, self._peers, self.block)
        self._started = now
        self._last_tick = now
        self._purged = False
        self._plane = plane or Plane()
        self._steered = plane is not None
        self._plane.take_over(routes, flows, beat)
        self._counted_at = now
        self._note_sizes()

    @property
    def repaired(self) -> int:
        """Half-written records found at the start."""
        return self._repaired

    # ---- peers -------------------------------------------------------------------------------

    def hello(self, peer_id: int, message: protocol.Hello) -> list[Action]:
        """A connection says who it is; refused when version, number or claim do not fit."""
        reason = self._objection(message)
        if reason:
            self.block.add(ControlCounter.REQUESTS_REFUSED)
            return [Send(peer_id, protocol.Refused(reason)), Close(peer_id, reason)]
        generation = message.generation or self._region.next_generation()
        peer = Peer(message.role, message.index, generation, set(message.holding))
        self._peers[peer_id] = peer
        self.block.set(ControlCounter.PEERS, len(self._peers))
        if message.role != RELAY:
            peer.replaying = message.generation != 0
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
            actions += self._adoption.joined(peer_id, peer)
        return actions

    def gone(self, peer_id: int) -> list[Action]:
        """A connection ended: its process died, or control refused it."""
        peer = self._peers.pop(peer_id, None)
        if peer is None:
            return []
        self.block.set(ControlCounter.PEERS, len(self._peers))
        if peer.role == RELAY:
            self._counters.relay(peer.index).clear()
            return self._adoption.adopt_orphans()
        self._plane.alive(peer.index, 0)
        self._counters.transceiver(peer.index).clear()
        self._routes.void_owner(peer.owner)
        self._flows.void_owner(peer.owner)
        self._note_sizes()
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
                self._routes.remove(peer.owner, ufrag)
            case protocol.ReleaseFlow(path, session):
                self._flows.remove(peer.owner, path, session)
            case protocol.Replay(routes, flows):
                self._replay(peer, routes, flows, now_ms)
            case protocol.ReplayDone():
                peer.replaying = False
                self._routes.void_unclaimed(peer.owner)
                self._flows.void_unclaimed(peer.owner)
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

    def sweep(self) -> bool:
        """Remove some of what is void; True while more waits: call it again, others first."""
        left = MAX_SWEPT
        for records in (self._routes, self._flows):
            left -= records.sweep(left)
        return self._routes.void + self._flows.void > 0

    # ---- hearts ------------------------------------------------------------------------------

    def _look_at(self, peer_id: int, peer: Peer, elapsed: float) -> list[Action]:
        is_relay = peer.role == RELAY
        block = (
            self._counters.relay(peer.index) if is_relay else self._counters.transceiver(peer.index)
        )
        if block.heartbeat_ns != peer.heartbeat_ns or elapsed > MAX_TICK_S:
            was_hung = peer.still_s >= HUNG_RELAY_S
            peer.heartbeat_ns, peer.still_s = block.heartbeat_ns, 0.0
            # It only stumbled: the socket is its own again.
            if is_relay and was_hung:
                return self._adoption.give_back(peer_id, peer.index)
            return []
        peer.still_s += elapsed
        if peer.killed:
            return []
        if self._hangs(peer, block.pid) if is_relay else peer.still_s >= HUNG_TRANSCEIVER_S:
            peer.killed = True
            kind = ControlCounter.RELAYS_KILLED if is_relay else ControlCounter.TRANSCEIVERS_KILLED
            self.block.add(kind)
            adopt = self._adoption.adopt_orphans() if is_relay else []
            return [*adopt, Kill(peer_id, f"{peer.role} {peer.index} hangs")]
        if is_relay and peer.still_s >= HUNG_RELAY_S:
            if peer.still_s - elapsed < HUNG_RELAY_S:
                peer.ticks = self._look(block.pid)
            return self._adoption.adopt_orphans()
        return []

    def _hangs(self, relay: Peer, pid: int) -> bool:
        """Whether a successor would do better."""
        if relay.still_s < KILL_RELAY_S:
            # Who is stopped does not wait for a core: another look would tell nothing.
            return relay.still_s >= HUNG_RELAY_S and self._stopped(pid)
        return relay.still_s >= STARVING_RELAY_S or not starves(relay.ticks, self._look(pid))

    # ---- tables ------------------------------------------------------------------------------

    def _register(
        self, peer_id: int, peer: Peer, request: int, ufrag: bytes, session: int, now_ms: int
    ) -> list[Action]:
        held = self._routes.holder(ufrag)
        if held is not None and held.owner != peer.owner:
            return self._refuse(peer_id, request, "ufrag belongs to another transceiver")
        try:
            self._routes.put(ufrag, Entry(*peer.owner, session, now_ms))
        except TableFull:
            return self._refuse(peer_id, request, "route table full")
        self._note_sizes()
        return [Send(peer_id, protocol.Done(request, ""))]

    def _commit(
        self, peer_id: int, peer: Peer, request: int, path: bytes, session: int, now_ms: int
    ) -> list[Action]:
        held = self._flows.holder(path)
        try:
            self._flows.put(path, Entry(*peer.owner, session, now_ms))
        except TableFull:
            return self._refuse(peer_id, request, "flow table full")
        self._note_sizes()
        actions: list[Action] = [Send(peer_id, protocol.Done(request, ""))]
        if held is not None and held.owner != peer.owner:
            for other_id, other in self._peers.items():
                if other.owner == held.owner:
                    actions.append(Send(other_id, protocol.FlowLost(path, held.session)))
        return actions

    def _replay(
        self, peer: Peer, routes: list[list[bytes]], flows: list[list[bytes]], now_ms: int
    ) -> None:
        if not peer.replaying:
            return
        for records, entries in ((self._routes, routes), (self._flows, flows)):
            for key, session in entries:
                held = records.holder(key)
                if held is not None and held.owner != peer.owner:
                    continue  # somebody else proved it later
                try:
                    records.put(key, Entry(*peer.owner, int(session), now_ms))
                except TableFull:
                    self.block.add(ControlCounter.REQUESTS_REFUSED)

    def _purge_unclaimed(self) -> None:
        """What nobody came back for is void, and so are the slots and blocks that nobody holds."""
        living = [peer.owner for peer in self._peers.values() if peer.role != RELAY]
        held_slots = {slot for slot, _ in living}
        for records in (self._routes, self._flows):
            for owner in records.unclaimed_but_by(living):
                records.void_unclaimed(owner)
                if owner[0] not in held_slots:
                    self._plane.alive(owner[0], 0)
        for slot, block in self._counters.transceivers():
            if slot not in held_slots:
                block.clear()
        self._note_sizes()

    def _refuse(self, peer_id: int, request: int, reason: str) -> list[Action]:
        self.block.add(ControlCounter.REQUESTS_REFUSED)
        return [Send(peer_id, protocol.Done(request, reason))]

    def _note_sizes(self) -> None:
        self.block.set(ControlCounter.ROUTES, len(self._routes))
        self.block.set(ControlCounter.FLOWS, len(self._flows))

    def _sockets_for(self, message: protocol.Hello) -> tuple[str, int]:
        if message.role == RELAY or self._steered:
            return message.role, message.index
        # A transceiver sends from any public socket; spreading them spreads the socket locks.
        return RELAY, message.index % self._relays

    def _objection(self, message: protocol.Hello) -> str:
        """Why a hello must be refused; empty when it may not."""
        if message.protocol != protocol.PROTOCOL:
            ours = protocol.PROTOCOL
            return f"{protocol.SKEW}control speaks protocol {ours}, the peer {message.protocol}"
        if message.abi != ABI:
            return f"{protocol.SKEW}the tables have ABI {ABI}, the peer expects {message.abi}"
        if message.role == RELAY and message.index >= self._relays:
            return f"there is no relay {message.index}"
        for peer in self._peers.values():
            if (peer.role, peer.index) == (message.role, message.index):
                return f"{message.role} {message.index} is connected already"
        return ""
