"""Frames to the transceivers over real Unix sockets: whole, in order, and never waiting."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from voicerelay.relay.links import MAX_LINKS, RETRY_S, SEND_BUFFER_BYTES, Links
from voicerelay.shm.counters import RelayCounter
from voicerelay.shm.frame import MAX_FRAME_BYTES
from voicerelay.shm.rundir import frames_socket

NOW = 1000.0
CLOCK = [NOW]
GONE = RelayCounter.DROPPED_TRANSCEIVER_GONE
FULL = RelayCounter.DROPPED_QUEUE_FULL


class Transceiver:
    """The receiving end of the links."""

    def __init__(self, run_dir: Path, slot: int, generation: int) -> None:
        self.path = frames_socket(run_dir, slot, generation)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(self.path))
        self._listener.listen(4)
        self._listener.setblocking(False)
        self.links: list[socket.socket] = []

    def frames(self) -> list[bytes]:
        """All that has arrived."""
        with contextlib.suppress(BlockingIOError):
            while True:
                link, _ = self._listener.accept()
                link.setblocking(False)
                self.links.append(link)
        found: list[bytes] = []
        for link in self.links:
            with contextlib.suppress(BlockingIOError):
                while frame := link.recv(MAX_FRAME_BYTES + 1):
                    found.append(frame)
        return found

    def die(self) -> None:
        """As the kernel does it, and control who removes the socket's name."""
        for sock in (self._listener, *self.links):
            sock.close()
        self.path.unlink(missing_ok=True)


def send(links: Links, target: tuple[int, int], frame: bytes, now: float) -> RelayCounter | None:
    CLOCK[0] = now
    return links.send(target, frame)


@pytest.fixture
def links(tmp_path: Path) -> Iterator[Links]:
    made = Links(tmp_path, lambda: CLOCK[0])
    yield made
    made.close()


@pytest.fixture
def alive(tmp_path: Path) -> Iterator[list[Transceiver]]:
    """Transceivers at slots 0 and 1, generations 1 and 2; a test may add more."""
    made = [Transceiver(tmp_path, slot, slot + 1) for slot in range(2)]
    yield made
    for transceiver in made:
        transceiver.die()


def test_frames_arrive_whole_and_in_order(links: Links, alive: list[Transceiver]) -> None:
    # given frames of all sizes up to the largest
    frames = [bytes((n,)) * size for n, size in enumerate((1, 1500, 20_000, MAX_FRAME_BYTES, 7))]

    # when they are sent
    results = [send(links, (0, 1), frame, NOW) for frame in frames]

    # then each is one message
    assert results == [None] * len(frames)
    assert alive[0].frames() == frames
    assert alive[1].frames() == []


def test_a_full_queue_drops_the_newest_and_costs_the_others_nothing(
    links: Links, alive: list[Transceiver]
) -> None:
    # given a transceiver that does not read, sent to until its queue is full
    accepted = []
    for number in range(100_000):
        frame = number.to_bytes(4, "big") + bytes(1000)
        if send(links, (0, 1), frame, NOW) is FULL:
            break
        accepted.append(frame)
    else:
        pytest.fail("the queue has no end")

    # when more comes, for it and for another one
    again = [send(links, (0, 1), bytes(1000), NOW) for _ in range(50)]
    other = [send(links, (1, 2), bytes((n,)), NOW) for n in range(50)]

    # then only the slow one loses, only the newest, and it goes on after it has read
    assert set(again) == {FULL}
    assert other == [None] * 50
    assert alive[1].frames() == [bytes((n,)) for n in range(50)]
    assert alive[0].frames() == accepted
    assert send(links, (0, 1), b"next", NOW) is None
    assert alive[0].frames() == [b"next"]


def test_the_send_buffer_is_as_large_as_asked_for_or_allowed(
    links: Links, alive: list[Transceiver]
) -> None:
    allowed = int(Path("/proc/sys/net/core/wmem_max").read_text())

    send(links, (0, 1), b"frame", NOW)

    (link,) = links._open.values()
    size = link.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    assert size == 2 * min(SEND_BUFFER_BYTES, allowed)  # the kernel counts its own share too
    assert alive[0].frames() == [b"frame"]


def test_a_transceiver_that_is_not_there_is_said_to_be_gone(links: Links) -> None:
    assert send(links, (5, 1), b"frame", NOW) is GONE


def test_a_dead_transceiver_is_tried_again_only_after_a_while(
    links: Links, tmp_path: Path, alive: list[Transceiver]
) -> None:
    # given a link to a transceiver that dies
    assert send(links, (0, 1), b"before", NOW) is None
    assert alive[0].frames() == [b"before"]
    alive[0].die()
    assert send(links, (0, 1), b"lost", NOW) is GONE

    # when a later one listens at the same place
    alive.append(Transceiver(tmp_path, 0, 1))

    # then it is found, but not before RETRY_S
    assert send(links, (0, 1), b"early", NOW + RETRY_S * 0.9) is GONE
    assert send(links, (0, 1), b"after", NOW + RETRY_S) is None
    assert alive[-1].frames() == [b"after"]


def test_packets_of_an_old_generation_never_reach_the_successor(
    links: Links, tmp_path: Path, alive: list[Transceiver]
) -> None:
    # given a transceiver whose slot is taken over by another generation
    assert send(links, (0, 1), b"of the first", NOW) is None
    alive[0].die()
    alive.append(Transceiver(tmp_path, 0, 7))
    assert send(links, (0, 7), b"of the second", NOW) is None

    # when late packets of the first come, at once and much later
    results = [send(links, (0, 1), b"late", NOW + wait) for wait in (0.0, RETRY_S, 60.0)]

    # then they are dropped
    assert results == [GONE] * 3
    assert alive[-1].frames() == [b"of the second"]


def test_a_link_to_an_older_generation_is_closed_when_the_next_one_is_up(
    links: Links, tmp_path: Path, alive: list[Transceiver]
) -> None:
    assert send(links, (0, 1), b"old", NOW) is None
    alive.append(Transceiver(tmp_path, 0, 2))

    assert send(links, (0, 2), b"new", NOW) is None

    assert sorted(links._open) == [(0, 2)]


def test_what_is_remembered_of_dead_transceivers_is_bounded(links: Links) -> None:
    for number in range(2 * MAX_LINKS):
        assert send(links, (number & 0xFF, number), b"frame", NOW) is GONE

    assert len(links._retry_at) <= MAX_LINKS + 1
