"""Who reads which relay socket, as relays come, die, hang and come back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicerelay.control.adoption import HUNG_RELAY_S, Adoption
from voicerelay.control.peer import Action, Peer, Send
from voicerelay.shm import protocol
from voicerelay.shm.counters import BLOCK_BYTES, Block, ControlCounter
from voicerelay.shm.protocol import RELAY, TRANSCEIVER

RELAYS = 3


class World:
    """Relays as peers 100 + index, and who reads what according to what they were told."""

    def __init__(self) -> None:
        self.peers: dict[int, Peer] = {}
        self.block = Block(memoryview(bytearray(BLOCK_BYTES)).cast("Q"))
        self.adoption = Adoption(RELAYS, self.peers, self.block)
        self.readers: dict[int, set[int]] = {}  # peer -> relay sockets

    def join(self, index: int, holding: tuple[int, ...] = ()) -> list[Action]:
        peer_id = 100 + index
        self.peers[peer_id] = Peer(RELAY, index, 1, set(holding))
        self.readers[peer_id] = {index, *holding}
        return self.told(self.adoption.joined(peer_id, self.peers[peer_id]))

    def die(self, index: int) -> list[Action]:
        del self.peers[100 + index], self.readers[100 + index]
        return self.told(self.adoption.adopt_orphans())

    def told(self, actions: list[Action]) -> list[Action]:
        for action in actions:
            assert isinstance(action, Send)
            if isinstance(action.message, protocol.Adopt):
                assert action.sockets_of == (RELAY, action.message.relay)
                assert action.message.relay not in self.readers[action.peer]
                self.readers[action.peer].add(action.message.relay)
            else:
                assert isinstance(action.message, protocol.Release)
                self.readers[action.peer].remove(action.message.relay)
        return actions


def adopts(actions: list[Action]) -> list[tuple[int, int]]:
    """(peer, relay) of each Adopt."""
    return [
        (action.peer, action.message.relay)
        for action in actions
        if isinstance(action, Send) and isinstance(action.message, protocol.Adopt)
    ]


def releases(actions: list[Action]) -> list[tuple[int, int]]:
    return [
        (action.peer, action.message.relay)
        for action in actions
        if isinstance(action, Send) and isinstance(action.message, protocol.Release)
    ]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def full(world: World) -> World:
    for index in range(RELAYS):
        world.join(index)
    return world


def test_a_relay_that_died_is_adopted_by_the_one_that_reads_the_fewest(full: World) -> None:
    before = full.block.get(ControlCounter.SOCKETS_ADOPTED)

    first = full.die(0)
    second = full.die(1)

    assert [relay for _, relay in adopts(first)] == [0]
    ((heir, _),) = adopts(first)
    assert sorted(relay for _, relay in adopts(second)) == ([0, 1] if heir == 101 else [1])
    adopted = full.block.get(ControlCounter.SOCKETS_ADOPTED) - before
    assert adopted == len(adopts(first) + adopts(second))


def test_a_relay_that_is_back_gets_its_socket_back(full: World) -> None:
    ((heir, _),) = adopts(full.die(0))

    actions = full.join(0)

    assert releases(actions) == [(heir, 0)]
    assert adopts(actions) == []


def test_the_first_relay_reads_for_those_that_are_not_there_yet(world: World) -> None:
    actions = world.join(1)

    assert adopts(actions) == [(101, 0), (101, 2)]


def test_sockets_wait_for_a_reader_when_no_relay_is_left(world: World) -> None:
    world.join(0)

    last = world.die(0)
    back = world.join(2)

    assert last == []
    assert sorted(adopts(back)) == [(102, 0), (102, 1)]


def test_what_a_relay_says_it_holds_is_not_adopted_twice(world: World) -> None:
    # given a control that has just started, and a relay that reads a dead sibling's socket
    assert adopts(world.join(0, holding=(0, 1))) == [(100, 2)]

    assert adopts(world.join(2)) == []


def test_a_relay_gives_back_what_it_adopted_from_an_earlier_control(world: World) -> None:
    # given a relay that is connected, and a sibling that still reads its socket since the time
    # of an earlier control
    world.join(1)

    actions = world.join(0, holding=(0, 1))

    assert (100, 1) in releases(actions)


def test_a_hung_relay_is_adopted_and_adopts_nothing(full: World) -> None:
    full.peers[100].still_s = HUNG_RELAY_S

    hung = full.told(full.adoption.adopt_orphans())
    died = full.die(1)

    assert [relay for _, relay in adopts(hung)] == [0]
    assert {peer for peer, _ in adopts(hung + died)} <= {101, 102}
    assert full.readers[102] == {0, 1, 2}


def test_a_relay_that_only_stumbled_is_its_sockets_only_reader(full: World) -> None:
    full.peers[100].still_s = HUNG_RELAY_S
    ((heir, _),) = adopts(full.told(full.adoption.adopt_orphans()))
    full.peers[100].still_s = 0.0

    actions = full.told(full.adoption.give_back(100, 0))

    assert releases(actions) == [(heir, 0)]
    assert full.readers[100] == {0}


def test_a_transceiver_reads_no_relay_socket(world: World) -> None:
    world.peers[200] = Peer(TRANSCEIVER, 0, 1)

    assert world.adoption.adopt_orphans() == []


@given(st.lists(st.integers(0, RELAYS - 1), max_size=30))
def test_every_socket_has_one_reader_whoever_comes_and_goes(turns: list[int]) -> None:
    world = World()
    for index in turns:
        # when a relay that is there dies, or one that is not comes
        _ = world.die(index) if 100 + index in world.peers else world.join(index)

        read = [relay for held in world.readers.values() for relay in held]
        assert sorted(read) == (list(range(RELAYS)) if world.peers else [])
        assert {i: peer.holding for i, peer in world.peers.items()} == world.readers
