"""Control's decisions about peers: who is let in, whose socket needs a reader, who is ended."""

import secrets
from collections.abc import Iterator

import pytest

from voicerelay.control.adoption import HUNG_RELAY_S
from voicerelay.control.peer import Action, Close, Kill, Send
from voicerelay.control.starvation import TICKS_OF_A_BUSY_LOOP
from voicerelay.control.state import (
    HUNG_TRANSCEIVER_S,
    KILL_RELAY_S,
    MAX_TICK_S,
    STARVING_RELAY_S,
    ControlState,
)
from voicerelay.shm import protocol
from voicerelay.shm.counters import HEARTBEAT_NS, Block, ControlCounter
from voicerelay.shm.protocol import PROTOCOL, RELAY, TRANSCEIVER
from voicerelay.shm.region import ABI, MIN_CAPACITY, Region, Sizes, remove_segments

TICK_S = 0.05
RELAYS = 3


class World:
    """A control without sockets; peer ids are 100 + index for relays, 200 + slot for transceivers."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.now = 0.0
        self.ticks: int | None = None  # of CPU, of every relay that could run
        self.stopped = False  # every relay, by SIGSTOP
        self.state = ControlState(
            region,
            RELAYS,
            self.now,
            look=lambda _: self.ticks,
            stopped=lambda _: self.stopped,
        )

    def hello(
        self, role: str, index: int, peer: int, holding: tuple[int, ...] = ()
    ) -> list[Action]:
        block = self.block(role, index)
        block.claim()
        block.words[HEARTBEAT_NS] = 1
        return self.state.hello(peer, protocol.Hello(PROTOCOL, ABI, role, index, 0, list(holding)))

    def relay(self, index: int, holding: tuple[int, ...] = ()) -> list[Action]:
        return self.hello(RELAY, index, 100 + index, holding)

    def transceiver(self, slot: int) -> list[Action]:
        return self.hello(TRANSCEIVER, slot, 200 + slot)

    def all_relays(self) -> None:
        for index in range(RELAYS):
            self.relay(index)

    def block(self, role: str, index: int) -> Block:
        counters = self.region.counters
        return counters.relay(index) if role == RELAY else counters.transceiver(index)

    def pass_time(
        self, seconds: float, beating: tuple[int, ...] = (), tick_s: float = TICK_S
    ) -> list[Action]:
        """Tick on for so long while these relays' hearts beat."""
        actions: list[Action] = []
        for _ in range(round(seconds / tick_s)):
            for index in beating:
                self.block(RELAY, index).words[HEARTBEAT_NS] += 1
            self.now += tick_s
            actions += self.state.tick(self.now)
        return actions

    def figure(self, counter: ControlCounter) -> int:
        return self.region.counters.control().get(counter)


@pytest.fixture
def world() -> Iterator[World]:
    name = f"vrtest-{secrets.token_hex(6)}"
    yield World(Region.create(name, bytes(16), Sizes.for_capacity(MIN_CAPACITY)))
    remove_segments(name)


def adopts(actions: list[Action]) -> list[tuple[int, int]]:
    """(peer, relay) of each Adopt; the sockets must come with it."""
    found = []
    for action in actions:
        if isinstance(action, Send) and isinstance(action.message, protocol.Adopt):
            assert action.sockets_of == (RELAY, action.message.relay)
            found.append((action.peer, action.message.relay))
    return found


def releases(actions: list[Action]) -> list[tuple[int, int]]:
    return [
        (action.peer, action.message.relay)
        for action in actions
        if isinstance(action, Send) and isinstance(action.message, protocol.Release)
    ]


def kills(actions: list[Action]) -> list[int]:
    return [action.peer for action in actions if isinstance(action, Kill)]


def test_a_relay_is_welcomed_with_its_own_sockets(world: World) -> None:
    (welcome, *_) = world.relay(1)

    assert isinstance(welcome, Send)
    assert isinstance(welcome.message, protocol.Welcome)
    assert welcome.sockets_of == (RELAY, 1)
    assert welcome.message.cluster_key == world.region.cluster_key
    assert not welcome.message.steered


@pytest.mark.parametrize("slot", [0, 1, RELAYS, RELAYS + 1])
def test_a_transceiver_is_welcomed_with_sockets_to_send_from(world: World, slot: int) -> None:
    (welcome,) = world.transceiver(slot)

    assert isinstance(welcome, Send)
    assert welcome.sockets_of == (RELAY, slot % RELAYS)


def test_every_peer_gets_a_generation_of_its_own(world: World) -> None:
    actions = world.transceiver(0) + world.transceiver(1) + world.relay(0)
    world.state.gone(200)

    actions += world.transceiver(0)

    messages = [action.message for action in actions if isinstance(action, Send)]
    given = [each.generation for each in messages if isinstance(each, protocol.Welcome)]
    assert len(given) == len(set(given)) == 4


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (protocol.Hello(PROTOCOL + 1, ABI, RELAY, 0, 0, []), "protocol"),
        (protocol.Hello(PROTOCOL, ABI + 1, RELAY, 0, 0, []), "ABI"),
        (protocol.Hello(PROTOCOL, ABI, RELAY, RELAYS, 0, []), f"no relay {RELAYS}"),
        (protocol.Hello(PROTOCOL, ABI, RELAY, 2, 0, []), "connected already"),
        (protocol.Hello(PROTOCOL, ABI, TRANSCEIVER, 1, 0, []), "connected already"),
    ],
)
def test_a_peer_that_does_not_fit_is_refused(
    world: World, hello: protocol.Hello, reason: str
) -> None:
    # given one relay and one transceiver
    world.relay(2)
    world.transceiver(1)

    said, closed = world.state.hello(300, hello)

    assert isinstance(said, Send)
    assert isinstance(said.message, protocol.Refused)
    assert reason in said.message.reason
    assert closed == Close(300, said.message.reason)
    assert world.figure(ControlCounter.REQUESTS_REFUSED) == 1
    assert world.figure(ControlCounter.PEERS) == 2
    assert world.state.gone(300) == []


def test_a_relay_and_a_transceiver_may_have_one_number(world: World) -> None:
    world.relay(1)

    (welcome,) = world.transceiver(1)

    assert isinstance(welcome, Send)
    assert isinstance(welcome.message, protocol.Welcome)


@pytest.mark.parametrize(
    "message",
    [
        protocol.RegisterRoute(1, b"u" * 20, 1),
        protocol.CommitFlow(1, bytes(20), 1),
        protocol.Replay([], []),
        protocol.Hello(PROTOCOL, ABI, RELAY, 0, 0, []),
        protocol.Done(1, ""),
    ],
)
def test_a_relay_that_sends_anything_is_closed(world: World, message: protocol.Message) -> None:
    world.relay(0)

    (action,) = world.state.message(100, message, 0)

    assert action == Close(100, f"a relay sent {type(message).__name__}")
    assert (world.figure(ControlCounter.ROUTES), world.figure(ControlCounter.FLOWS)) == (0, 0)


@pytest.mark.parametrize(
    "message",
    [
        protocol.Hello(PROTOCOL, ABI, TRANSCEIVER, 0, 0, []),
        protocol.Adopt(0),
        protocol.Welcome(b"", "", 0, b"", False),
        protocol.FlowLost(bytes(20), 1),
    ],
)
def test_a_transceiver_that_speaks_like_control_is_closed(
    world: World, message: protocol.Message
) -> None:
    world.transceiver(0)

    assert world.state.message(200, message, 0) == [
        Close(200, f"a transceiver sent {type(message).__name__}")
    ]


def test_the_socket_of_a_relay_that_died_is_adopted_until_it_is_back(world: World) -> None:
    world.all_relays()

    ((heir, relay),) = adopts(world.state.gone(100))
    back = world.relay(0)

    assert relay == 0
    assert (releases(back), adopts(back)) == ([(heir, 0)], [])


def test_what_a_relay_says_it_holds_is_kept(world: World) -> None:
    actions = world.relay(0, holding=(0, 1))

    assert adopts(actions) == [(100, 2)]


def test_the_block_of_a_relay_that_died_is_nobodys(world: World) -> None:
    world.all_relays()

    world.state.gone(101)

    assert [index for index, _ in world.region.counters.relays()] == [0, 2]


def test_a_hung_relay_is_read_by_a_sibling_and_then_ended(world: World) -> None:
    world.all_relays()
    world.pass_time(1.0, beating=(0, 1, 2))

    adopted = world.pass_time(HUNG_RELAY_S + TICK_S, beating=(1, 2))
    ended = world.pass_time(KILL_RELAY_S - HUNG_RELAY_S + TICK_S, beating=(1, 2))
    later = world.pass_time(1.0, beating=(1, 2))

    assert [relay for _, relay in adopts(adopted)] == [0]
    assert kills(adopted) == []
    assert kills(ended) == [100]
    assert (adopts(later), kills(later)) == ([], [])
    assert world.figure(ControlCounter.RELAYS_KILLED) == 1


def test_a_relay_that_is_stopped_is_ended_when_it_is_found(world: World) -> None:
    world.all_relays()
    world.pass_time(1.0, beating=(0, 1, 2))
    world.stopped = True

    before = world.pass_time(HUNG_RELAY_S - TICK_S, beating=(1, 2))
    found = world.pass_time(2 * TICK_S, beating=(1, 2))

    assert before == []
    assert [relay for _, relay in adopts(found)] == [0]
    assert kills(found) == [100]


def test_a_relay_that_only_waits_for_a_core_is_ended_late(world: World) -> None:
    world.all_relays()
    world.ticks = 7

    patient = world.pass_time(STARVING_RELAY_S - TICK_S, beating=(1, 2))
    ended = world.pass_time(2 * TICK_S, beating=(1, 2))

    assert [relay for _, relay in adopts(patient)] == [0]
    assert kills(patient) == []
    assert kills(ended) == [100]


def test_a_relay_that_runs_in_circles_is_ended_as_one_that_hangs(world: World) -> None:
    world.all_relays()
    world.ticks = 7
    world.pass_time(HUNG_RELAY_S + TICK_S, beating=(1, 2))

    world.ticks = 7 + TICKS_OF_A_BUSY_LOOP
    ended = world.pass_time(KILL_RELAY_S - HUNG_RELAY_S + TICK_S, beating=(1, 2))

    assert kills(ended) == [100]


def test_a_relay_that_only_stumbled_keeps_its_socket(world: World) -> None:
    world.all_relays()
    ((heir, _),) = adopts(world.pass_time(HUNG_RELAY_S + TICK_S, beating=(1, 2)))

    actions = world.pass_time(1.0, beating=(0, 1, 2))

    assert releases(actions) == [(heir, 0)]
    assert (adopts(actions), kills(actions)) == ([], [])


def test_a_hung_relay_adopts_nothing(world: World) -> None:
    world.all_relays()
    world.pass_time(HUNG_RELAY_S + TICK_S, beating=(1, 2))

    actions = world.state.gone(101)

    assert actions
    assert {peer for peer, _ in adopts(actions)} == {102}


def test_controls_own_stall_is_nobodys_fault(world: World) -> None:
    # given relays whose hearts nobody saw beat, because control itself stood still
    world.all_relays()
    world.pass_time(0.5, beating=(0, 1, 2))

    actions = world.pass_time(10 * 2 * MAX_TICK_S, tick_s=2 * MAX_TICK_S)

    assert actions == []


def test_a_stall_of_control_starts_the_count_anew(world: World) -> None:
    world.all_relays()
    world.pass_time(HUNG_RELAY_S - TICK_S, beating=(1, 2))

    world.pass_time(2 * MAX_TICK_S, beating=(1, 2), tick_s=2 * MAX_TICK_S)
    actions = world.pass_time(HUNG_RELAY_S - TICK_S, beating=(1, 2))

    assert actions == []


def test_a_hung_transceiver_is_ended_late(world: World) -> None:
    world.transceiver(0)

    patient = world.pass_time(HUNG_TRANSCEIVER_S - 1)
    ended = world.pass_time(2)

    assert patient == []
    assert kills(ended) == [200]
    assert world.figure(ControlCounter.TRANSCEIVERS_KILLED) == 1
