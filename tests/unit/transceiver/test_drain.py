"""A drain: no new calls, the running ones until a deadline, and the end after the last of them."""

from voicerelay.shm.counters import BLOCK_BYTES, Block, TransceiverCounter
from voicerelay.shm.order import DRAIN, OPEN, RETIRE, Order
from voicerelay.transceiver.drain import END_REASON, Drain


class Calls:
    """So many calls, which end when they are told to."""

    def __init__(self, sessions: int) -> None:
        self.sessions = sessions
        self.draining = False
        self.reasons: list[str] = []

    def end_all(self, reason: str) -> range:
        self.reasons.append(reason)
        ended, self.sessions = range(self.sessions), 0
        return ended


class World:
    def __init__(self, sessions: int, held: bool = False) -> None:
        self.calls = Calls(sessions)
        self.block = Block(memoryview(bytearray(BLOCK_BYTES)).cast("Q"))
        self.retired = 0
        self.drain = Drain(self.calls, self.block, self._retire, held)

    def _retire(self) -> None:
        self.retired += 1

    def figure(self, counter: TransceiverCounter) -> int:
        return self.block.get(counter)


def test_a_transceiver_takes_calls_unless_it_is_held() -> None:
    world, held = World(0), World(0, held=True)

    held.drain.look(1.0)

    assert not world.calls.draining
    assert held.calls.draining
    assert held.figure(TransceiverCounter.DRAINING) == 1
    assert held.retired == 0


def test_a_held_one_opens_when_it_is_told() -> None:
    world = World(0, held=True)

    world.drain.obey(Order(OPEN), 1.0)

    assert not world.calls.draining
    assert world.figure(TransceiverCounter.DRAINING) == 0


def test_running_calls_go_on_until_the_deadline_and_are_counted_then() -> None:
    world = World(3)
    world.drain.obey(Order(DRAIN, 10), 100.0)

    world.drain.look(109.9)
    before = world.calls.sessions
    left = world.figure(TransceiverCounter.DRAIN_LEFT_S)
    world.drain.look(110.0)

    assert (before, world.calls.sessions) == (3, 0)
    assert left == 0
    assert world.calls.reasons == [END_REASON]
    assert world.figure(TransceiverCounter.STRAGGLERS_ENDED) == 3
    assert world.retired == 0  # only drained: it stays, and may be opened again


def test_what_is_left_of_the_time_is_shown() -> None:
    world = World(1)

    world.drain.obey(Order(DRAIN, 10), 100.0)
    world.drain.look(103.0)

    assert world.figure(TransceiverCounter.DRAIN_LEFT_S) == 7


def test_a_drain_that_is_taken_back_ends_no_call() -> None:
    world = World(2)
    world.drain.obey(Order(DRAIN, 10), 100.0)

    world.drain.obey(Order(OPEN), 105.0)
    world.drain.look(200.0)

    assert world.calls.sessions == 2
    assert not world.calls.draining


def test_a_later_deadline_counts() -> None:
    world = World(1)
    world.drain.obey(Order(DRAIN, 10), 100.0)

    world.drain.obey(Order(DRAIN, 100), 100.0)
    world.drain.look(150.0)

    assert world.calls.sessions == 1


def test_who_retires_ends_after_its_last_call() -> None:
    world = World(1)
    world.drain.obey(Order(RETIRE, 10), 100.0)
    with_call = world.retired

    world.calls.sessions = 0
    world.drain.look(101.0)

    assert (with_call, world.retired) == (0, 1)
    assert world.figure(TransceiverCounter.STRAGGLERS_ENDED) == 0


def test_who_retires_without_calls_ends_at_once() -> None:
    world = World(0)

    world.drain.obey(Order(RETIRE, 10), 100.0)

    assert world.retired == 1


def test_goodbyes_leave_before_the_end() -> None:
    world = World(2)

    world.drain.obey(Order(RETIRE, 0), 100.0)
    at_once = world.retired
    world.drain.look(100.1)

    assert (at_once, world.retired) == (0, 1)
    assert world.figure(TransceiverCounter.STRAGGLERS_ENDED) == 2


def test_who_retires_is_never_opened_again_and_can_be_hastened() -> None:
    world = World(1)
    world.drain.obey(Order(RETIRE, 100), 100.0)

    world.drain.obey(Order(OPEN), 101.0)
    world.drain.obey(Order(DRAIN, 1), 101.0)
    world.drain.look(102.0)
    world.drain.look(102.1)

    assert world.calls.draining
    assert world.retired == 1
