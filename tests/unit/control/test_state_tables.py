"""Control's tables: a transceiver writes its own records, a proved path moves, a restart loses nothing."""

import secrets
from collections.abc import Iterator
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicerelay.control import state as module
from voicerelay.control.peer import Action, Send
from voicerelay.control.plane import Plane
from voicerelay.control.state import MAX_SWEPT, REPLAY_GRACE_S, ControlState
from voicerelay.shm import protocol
from voicerelay.shm.counters import ControlCounter
from voicerelay.shm.protocol import PROTOCOL, TRANSCEIVER
from voicerelay.shm.region import (
    ABI,
    FLOWS_PER_SESSION,
    MIN_CAPACITY,
    Region,
    Sizes,
    remove_segments,
)
from voicerelay.shm.table import Entry

NOW_MS = 5000


def ufrag(number: int) -> bytes:
    return b"%020d" % number


def path(number: int) -> bytes:
    return b"\x00\x00" + number.to_bytes(18, "big")


class World:
    """A control without sockets, and transceivers 0, 1, ... as peers 200, 201, ..."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.state = ControlState(region, 2, 0.0)
        self.generations: dict[int, int] = {}

    def join(self, slot: int, again: bool = False) -> None:
        """A hello; `again`: of a transceiver that has a generation from an earlier welcome."""
        known = self.generations[slot] if again else 0
        hello = protocol.Hello(PROTOCOL, ABI, TRANSCEIVER, slot, known, [])
        welcome = self.state.hello(200 + slot, hello)[0]
        assert isinstance(welcome, Send)
        assert isinstance(welcome.message, protocol.Welcome)
        self.generations[slot] = welcome.message.generation

    def say(self, slot: int, message: protocol.Message) -> list[Action]:
        return self.state.message(200 + slot, message, NOW_MS)

    def register(self, slot: int, number: int, session: int = 1) -> str:
        return self.answer(self.say(slot, protocol.RegisterRoute(7, ufrag(number), session)))

    def commit(self, slot: int, number: int, session: int = 1) -> str:
        return self.answer(self.say(slot, protocol.CommitFlow(7, path(number), session)))

    @staticmethod
    def answer(actions: list[Action]) -> str:
        assert isinstance(actions[0], Send)
        assert isinstance(actions[0].message, protocol.Done)
        assert actions[0].message.request == 7
        return actions[0].message.error

    def sweep(self) -> int:
        """Remove all that is void; returns how many turns it took."""
        turns = 1
        while self.state.sweep():
            turns += 1
        return turns

    def restart(self) -> None:
        """Control is killed; its successor finds the region."""
        self.state = ControlState(self.region, 2, 0.0)

    def entry(self, slot: int, session: int = 1) -> Entry:
        return Entry(slot, self.generations[slot], session, NOW_MS)

    def routes(self) -> dict[bytes, Entry]:
        return dict(self.region.route_writer().items())

    def flows(self) -> dict[bytes, Entry]:
        return dict(self.region.flow_writer().items())

    def figures(self) -> tuple[int, int]:
        block = self.region.counters.control()
        return block.get(ControlCounter.ROUTES), block.get(ControlCounter.FLOWS)


def make_world() -> World:
    name = f"vrtest-{secrets.token_hex(6)}"
    return World(Region.create(name, bytes(16), Sizes.for_capacity(MIN_CAPACITY)))


@pytest.fixture
def world() -> Iterator[World]:
    made = make_world()
    made.join(0)
    made.join(1)
    yield made
    made.region.close()
    remove_segments(made.region.name)


def test_a_route_and_a_flow_lead_to_their_transceiver(world: World) -> None:
    errors = world.register(0, 1, session=5), world.commit(1, 2, session=6)

    assert errors == ("", "")
    assert world.routes() == {ufrag(1): world.entry(0, 5)}
    assert world.flows() == {path(2): world.entry(1, 6)}
    assert world.figures() == (1, 1)


def test_a_record_may_be_refreshed_by_its_owner(world: World) -> None:
    world.register(0, 1, session=1)
    world.commit(0, 1, session=1)

    errors = world.register(0, 1, session=2), world.commit(0, 1, session=2)

    assert errors == ("", "")
    assert world.routes() == {ufrag(1): world.entry(0, 2)}
    assert world.flows() == {path(1): world.entry(0, 2)}


def test_a_route_of_another_cannot_be_taken(world: World) -> None:
    world.register(0, 1)

    error = world.register(1, 1)

    assert "another transceiver" in error
    assert world.routes() == {ufrag(1): world.entry(0)}


def test_records_of_another_cannot_be_removed(world: World) -> None:
    world.register(0, 1)
    world.commit(0, 1)

    world.say(1, protocol.UnregisterRoute(ufrag(1)))
    world.say(1, protocol.ReleaseFlow(path(1), 1))

    assert world.routes() == {ufrag(1): world.entry(0)}
    assert world.flows() == {path(1): world.entry(0)}


def test_own_records_can_be_removed(world: World) -> None:
    world.register(0, 1)
    world.commit(0, 1)

    world.say(0, protocol.UnregisterRoute(ufrag(1)))
    world.say(0, protocol.ReleaseFlow(path(1), 1))

    assert (world.routes(), world.flows()) == ({}, {})
    assert world.figures() == (0, 0)


def test_a_path_that_went_to_another_session_is_not_released_by_the_former(world: World) -> None:
    world.commit(0, 1, session=1)
    world.commit(0, 1, session=2)

    world.say(0, protocol.ReleaseFlow(path(1), 1))

    assert world.flows() == {path(1): world.entry(0, 2)}


def test_a_proved_path_moves_and_its_former_owner_is_told(world: World) -> None:
    # given a path of one transceiver
    world.commit(0, 1, session=5)

    actions = world.say(1, protocol.CommitFlow(7, path(1), 6))

    assert actions == [
        Send(201, protocol.Done(7, "")),
        Send(200, protocol.FlowLost(path(1), 5)),
    ]
    assert world.flows() == {path(1): world.entry(1, 6)}
    world.state.gone(200)
    world.sweep()
    assert world.flows() == {path(1): world.entry(1, 6)}


def test_nobody_is_told_when_the_former_owner_is_gone(world: World) -> None:
    world.commit(0, 1, session=5)
    world.restart()
    world.join(1, again=True)

    actions = world.say(1, protocol.CommitFlow(7, path(1), 6))

    assert actions == [Send(201, protocol.Done(7, ""))]


def test_a_transceiver_that_is_gone_takes_its_own_records_with_it(world: World) -> None:
    for slot in (0, 1):
        for number in range(3):
            world.register(slot, 10 * slot + number)
            world.commit(slot, 10 * slot + number)

    world.state.gone(200)
    figures = world.figures()
    world.sweep()

    assert figures == (3, 3)
    assert world.routes() == {ufrag(10 + number): world.entry(1) for number in range(3)}
    assert world.flows() == {path(10 + number): world.entry(1) for number in range(3)}
    assert world.figures() == (3, 3)
    assert [slot for slot, _ in world.region.counters.transceivers()] == []


def test_a_successor_does_not_inherit_records(world: World) -> None:
    # given a transceiver that died while control was away, and its successor
    world.register(0, 1)
    old = world.entry(0)
    world.restart()
    world.join(0)

    meanwhile = world.routes()
    world.state.tick(REPLAY_GRACE_S + 0.1)
    figures = world.figures()
    world.sweep()

    assert figures == (0, 0)
    assert meanwhile == {ufrag(1): old}
    assert old.generation != world.generations[0]
    assert world.routes() == {}


def test_the_blocks_of_who_went_while_there_was_no_control_are_freed(world: World) -> None:
    # given two transceivers, of which one has gone before the next control looks
    for slot in (0, 1):
        world.region.counters.transceiver(slot).claim()
    world.restart()
    world.join(0, again=True)

    world.state.tick(REPLAY_GRACE_S + 0.1)

    assert [slot for slot, _ in world.region.counters.transceivers()] == [0]


def test_a_restarted_control_keeps_what_is_replayed_and_drops_the_rest(world: World) -> None:
    # given records of two transceivers, of which one comes back and has ended a call meanwhile
    for slot in (0, 1):
        for number in range(2):
            world.register(slot, 10 * slot + number)
            world.commit(slot, 10 * slot + number)
    before = world.routes()
    world.restart()
    after_restart = world.routes()

    world.join(0, again=True)
    world.say(0, protocol.Replay([[ufrag(1), 1], [ufrag(5), 9]], [[path(1), 1]]))
    world.say(0, protocol.ReplayDone())
    world.sweep()
    waiting = world.routes()
    world.state.tick(REPLAY_GRACE_S)
    world.sweep()
    still_waiting = world.routes()
    world.state.tick(REPLAY_GRACE_S + 0.1)
    world.sweep()

    mine = {ufrag(1): world.entry(0), ufrag(5): world.entry(0, 9)}
    others = {ufrag(10 + number): world.entry(1) for number in range(2)}
    assert after_restart == before
    assert waiting == still_waiting == mine | others
    assert world.routes() == mine
    assert world.flows() == {path(1): world.entry(0)}
    assert world.figures() == (2, 1)


def test_a_transceiver_that_replays_is_not_purged_before_it_is_done(world: World) -> None:
    world.register(0, 1)
    world.restart()
    world.join(0, again=True)

    world.state.tick(REPLAY_GRACE_S + 0.1)
    world.sweep()
    waiting = world.routes()
    world.say(0, protocol.ReplayDone())
    world.sweep()

    assert waiting == {ufrag(1): world.entry(0)}
    assert world.routes() == {}


def test_a_late_replay_is_taken_too(world: World) -> None:
    world.register(0, 1)
    world.restart()
    world.state.tick(REPLAY_GRACE_S + 0.1)
    world.sweep()
    purged = world.routes()

    world.join(0, again=True)
    world.say(0, protocol.Replay([[ufrag(1), 1]], []))
    world.say(0, protocol.ReplayDone())

    assert purged == {}
    assert world.routes() == {ufrag(1): world.entry(0)}


def test_a_replay_does_not_take_what_another_proved_since(world: World) -> None:
    world.commit(0, 1)
    world.restart()
    world.join(1, again=True)
    world.commit(1, 1, session=8)

    world.join(0, again=True)
    world.say(0, protocol.Replay([], [[path(1), 1]]))
    world.say(0, protocol.ReplayDone())

    assert world.flows() == {path(1): world.entry(1, 8)}


def test_a_replay_without_a_reconnect_changes_nothing(world: World) -> None:
    world.register(0, 1)

    world.say(0, protocol.Replay([[ufrag(2), 1]], []))
    world.say(0, protocol.ReplayDone())

    assert world.routes() == {ufrag(1): world.entry(0)}


def test_full_tables_refuse_with_a_reason(world: World) -> None:
    for number in range(MIN_CAPACITY):
        assert world.register(0, number) == ""
    for number in range(MIN_CAPACITY * FLOWS_PER_SESSION):
        assert world.commit(0, number) == ""

    errors = world.register(1, 999), world.commit(1, 999)

    assert errors == ("route table full", "flow table full")
    assert world.region.counters.control().get(ControlCounter.REQUESTS_REFUSED) == 2
    world.state.gone(200)
    assert (world.register(1, 999), world.commit(1, 999)) == ("", "")


def test_a_replay_into_full_tables_keeps_what_fits(world: World) -> None:
    world.restart()
    world.join(0, again=True)

    world.say(0, protocol.Replay([[ufrag(n), 1] for n in range(MIN_CAPACITY + 4)], []))
    world.say(0, protocol.ReplayDone())

    assert world.routes() == {ufrag(n): world.entry(0) for n in range(MIN_CAPACITY)}


def test_what_a_dead_transceiver_owned_goes_a_little_at_a_time(world: World) -> None:
    # given the records of one that died, more than a turn removes
    with mock.patch.object(module, "MAX_SWEPT", 4):
        for number in range(5):
            world.register(0, number)
            world.commit(0, number)
        world.commit(1, 100)

        world.state.gone(200)
        at_once = world.figures(), len(world.routes()), len(world.flows())
        more = world.state.sweep()
        then = world.figures(), len(world.routes()), len(world.flows())
        turns = world.sweep()

    assert at_once == ((0, 1), 5, 6)
    assert (more, then) == (True, ((0, 1), 1, 6))
    assert turns == 2
    assert (world.routes(), world.flows()) == ({}, {path(100): world.entry(1)})
    assert MAX_SWEPT * 20 < 10_000  # µs; a removal takes some 10


def test_a_void_record_is_free_for_the_living_and_then_stays(world: World) -> None:
    # given void records of one that died
    world.register(0, 1)
    world.commit(0, 1, session=5)
    world.state.gone(200)

    error = world.register(1, 1)
    actions = world.say(1, protocol.CommitFlow(7, path(1), 6))
    world.sweep()

    assert error == ""
    assert actions == [Send(201, protocol.Done(7, ""))]
    assert world.routes() == {ufrag(1): world.entry(1)}
    assert world.flows() == {path(1): world.entry(1, 6)}
    assert world.figures() == (1, 1)


def test_a_transceiver_that_lost_control_for_a_moment_keeps_what_it_replays(world: World) -> None:
    # given a connection that ended, and the same transceiver again before all was swept
    for number in range(3):
        world.register(0, number)
        world.commit(0, number)
    world.state.gone(200)
    world.join(0, again=True)

    world.say(0, protocol.Replay([[ufrag(1), 1]], [[path(2), 1]]))
    world.say(0, protocol.ReplayDone())
    figures = world.figures()
    world.sweep()

    assert figures == (1, 1)
    assert world.routes() == {ufrag(1): world.entry(0)}
    assert world.flows() == {path(2): world.entry(0)}


def test_a_flow_committed_during_the_replay_stays(world: World) -> None:
    world.commit(0, 1)
    world.restart()
    world.join(0, again=True)

    world.commit(0, 1, session=2)
    world.say(0, protocol.ReplayDone())
    world.sweep()

    assert world.flows() == {path(1): world.entry(0, 2)}


class WatchedPlane(Plane):
    """Remembers which generation is alive in each slot."""

    def __init__(self) -> None:
        self.generations: dict[int, int] = {}

    def alive(self, slot: int, generation: int) -> None:
        self.generations[slot] = generation


def test_the_plane_is_told_at_once_who_is_gone(world: World) -> None:
    # given a control with three earlier transceivers' records, of which one comes back and one
    # has a successor
    world.join(2)
    for slot in range(3):
        world.register(slot, slot)
    plane = WatchedPlane()
    world.state = ControlState(world.region, 2, 0.0, plane)
    world.join(0, again=True)
    world.join(1)

    world.state.tick(REPLAY_GRACE_S + 0.1)
    purged = dict(plane.generations)
    world.state.gone(201)

    assert purged == {0: world.generations[0], 1: world.generations[1], 2: 0}
    assert plane.generations == purged | {1: 0}


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("register", "commit", "unregister", "release", "leave", "sweep")),
        st.integers(0, 2),
        st.integers(0, 4),
        st.integers(1, 2),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=60)
@given(STEPS)
def test_the_tables_follow_the_model(steps: list[tuple[str, int, int, int]]) -> None:
    # given three transceivers that do whatever they may, in any order, and a slow broom
    world = make_world()
    with mock.patch.object(module, "MAX_SWEPT", 1):
        for slot in range(3):
            world.join(slot)
        routes: dict[bytes, Entry] = {}
        flows: dict[bytes, Entry] = {}
        for what, slot, number, session in steps:
            mine = world.entry(slot, session)
            if what == "register":
                taken = routes.get(ufrag(number), mine).owner != mine.owner
                assert (world.register(slot, number, session) != "") == taken
                if not taken:
                    routes[ufrag(number)] = mine
            elif what == "commit":
                assert world.commit(slot, number, session) == ""
                flows[path(number)] = mine
            elif what == "unregister":
                world.say(slot, protocol.UnregisterRoute(ufrag(number)))
                if routes.get(ufrag(number), mine).owner == mine.owner:
                    routes.pop(ufrag(number), None)
            elif what == "release":
                world.say(slot, protocol.ReleaseFlow(path(number), session))
                if flows.get(path(number)) == mine:
                    del flows[path(number)]
            elif what == "leave":
                world.state.gone(200 + slot)
                routes = {k: e for k, e in routes.items() if e.owner != mine.owner}
                flows = {k: e for k, e in flows.items() if e.owner != mine.owner}
                world.join(slot)
            else:
                world.state.sweep()

            # then what is counted and what the living have is there, and the rest is of the dead
            assert world.figures() == (len(routes), len(flows))
            living = {world.entry(each).owner for each in range(3)}
            for table, model in ((world.routes(), routes), (world.flows(), flows)):
                assert {k: e for k, e in table.items() if e.owner in living} == model
        world.sweep()

        assert (world.routes(), world.flows()) == (routes, flows)
    world.region.close()
    remove_segments(world.region.name)
