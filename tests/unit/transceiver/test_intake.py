"""Reading a steered socket: a lone packet at once, many of a busy one together, nothing after the end."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from voicerelay.shm.frame import MAX_DATAGRAM_BYTES
from voicerelay.shm.path import pack_path
from voicerelay.shm.receive import MAX_BATCH
from voicerelay.transceiver.intake import LOOK_S, MAX_CACHED_PATHS, Intake

HOSTS = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
NOW = 5000.0
LOOKS_TO_BUSY = 20


class Loop:
    """An event loop that does nothing by itself."""

    def __init__(self) -> None:
        self.reader: Callable[[], None] | None = None
        self.timer: tuple[float, Callable[[], None]] | None = None

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        self.reader = callback

    def remove_reader(self, fd: int) -> None:
        self.reader = None

    def call_at(self, when: float, callback: Callable[[], None]) -> "Loop":
        self.timer = when, callback
        return self

    def cancel(self) -> None:
        self.timer = None

    def run(self) -> None:
        """The timer if there is one, else the reader."""
        if self.timer is not None:
            (_, callback), self.timer = self.timer, None
            callback()
        elif self.reader is not None:
            self.reader()


class Taken:
    """What an intake hands over, group by group."""

    def __init__(self) -> None:
        self.groups: list[list[tuple[bytes, bytes]]] = [[]]
        self.refused = 0
        self.sorted_out: set[int] = set()

    def sort(self, headers: int, count: int, local: int) -> Sequence[int]:
        assert local == 3
        return [index for index in range(count) if index not in self.sorted_out]

    def take(self, data: bytes, path: bytes, relay: int | None) -> None:
        assert relay is None
        self.groups[-1].append((data, path))

    def refuse(self) -> None:
        self.refused += 1

    def hand_on(self) -> None:
        self.groups.append([])


class Host:
    """A public socket with an intake, a client, and a time of its own."""

    def __init__(self, family: int) -> None:
        self.public, self.client = (socket.socket(family, socket.SOCK_DGRAM) for _ in range(2))
        for sock in (self.public, self.client):
            sock.bind((HOSTS[socket.AddressFamily(family)], 0))
        self.client.connect(self.public.getsockname()[:2])
        self.path = pack_path(3, *self.client.getsockname()[:2])
        self.loop, self.taken, self.now = Loop(), Taken(), NOW
        loop: asyncio.AbstractEventLoop = self.loop  # type: ignore[assignment]
        self.intake = Intake(loop, 3, self.public, self.taken, lambda: self.now)

    def look(self, packets: int, after_s: float = LOOK_S) -> list[bytes]:
        """What is handed over together when so many packets have come."""
        self.now += after_s
        for number in range(packets):
            self.client.send(bytes((number,)))
        self.loop.run()
        return [data for data, _ in self.taken.groups[-2]]

    def make_busy(self) -> None:
        for _ in range(LOOKS_TO_BUSY):
            self.look(4)
        assert self.loop.reader is None


@contextmanager
def host(family: int = socket.AF_INET) -> Iterator[Host]:
    made = Host(family)
    try:
        yield made
    finally:
        made.public.close()
        made.client.close()


@pytest.mark.parametrize("family", HOSTS, ids=["IPv4", "IPv6"])
def test_what_came_together_is_handed_over_together_each_with_its_path(family: int) -> None:
    with host(family) as here:
        here.look(3)

        assert here.taken.groups == [[(bytes((n,)), here.path) for n in range(3)], []]


def test_a_lone_packet_is_read_at_once() -> None:
    with host() as here:
        for _ in range(LOOKS_TO_BUSY):
            assert here.look(1, after_s=0.02) == [b"\0"]
            assert here.loop.timer is None
            assert here.loop.reader is not None


def test_a_busy_socket_wakes_nobody_and_is_looked_at_in_the_pacers_moments() -> None:
    with host() as here:
        here.make_busy()

        assert here.loop.timer is not None
        when, _ = here.loop.timer
        assert here.now < when <= here.now + LOOK_S
        assert when / LOOK_S == pytest.approx(round(when / LOOK_S))
        assert here.look(5) == [bytes((n,)) for n in range(5)]


def test_a_socket_that_is_no_longer_busy_wakes_again() -> None:
    with host() as here:
        here.make_busy()

        for _ in range(LOOKS_TO_BUSY):
            here.look(0)

        assert here.loop.timer is None
        assert here.look(1) == [b"\0"]


def test_no_more_than_a_batch_is_read_and_the_rest_at_once_after_what_else_waits() -> None:
    with host() as here:
        here.make_busy()

        assert len(here.look(MAX_BATCH + 1)) == MAX_BATCH
        assert here.loop.timer is None
        assert here.loop.reader is not None
        assert len(here.look(0)) == 1


def test_what_is_empty_or_too_long_is_refused_and_the_rest_taken() -> None:
    with host() as here:
        for data in (b"", bytes(MAX_DATAGRAM_BYTES + 1), bytes(MAX_DATAGRAM_BYTES)):
            here.client.send(data)

        assert here.look(1) == [bytes(MAX_DATAGRAM_BYTES), b"\0"]
        assert here.taken.refused == 2


def test_remembered_paths_are_bounded() -> None:
    with host() as here:
        for number in range(MAX_CACHED_PATHS + 5):
            here.intake._meet(number << 32)

        assert len(here.intake._paths) <= MAX_CACHED_PATHS


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_after_the_end_nothing_is_read(busy: bool) -> None:
    with host() as here:
        if busy:
            here.make_busy()

        here.intake.close()

        assert here.loop.reader is None
        assert here.loop.timer is None


def test_on_a_real_loop_every_packet_arrives() -> None:
    async def run() -> None:
        with host() as here:
            taken = Taken()
            here.public.setblocking(False)
            intake = Intake(asyncio.get_running_loop(), 3, here.public, taken, time.monotonic)
            for number in range(200):
                here.client.send(bytes((number,)))
                if number % 7 == 0:
                    await asyncio.sleep(0)
            async with asyncio.timeout(10):
                while sum(map(len, taken.groups)) < 200:
                    await asyncio.sleep(0.001)
            intake.close()
            assert [data[0] for group in taken.groups for data, _ in group] == list(range(200))

    asyncio.run(run())
