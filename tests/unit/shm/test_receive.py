"""Many datagrams with one call: sizes, contents and sources, over and over in the same buffers."""

import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicerelay.shm.frame import MAX_DATAGRAM_BYTES
from voicerelay.shm.path import pack_path
from voicerelay.shm.receive import MAX_BATCH, SLOT_BYTES, Batch, source_path

HOSTS = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
families = pytest.mark.parametrize("family", HOSTS, ids=["IPv4", "IPv6"])


def bound(family: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.bind((HOSTS[socket.AddressFamily(family)], 0))
    return sock


def contents(batch: Batch, count: int) -> list[bytes]:
    return [
        bytes(batch.store[start : start + batch.sizes[at]]) for start, at in batch.places[:count]
    ]


@families
@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.integers(0, MAX_DATAGRAM_BYTES), max_size=MAX_BATCH), max_size=4))
def test_what_was_sent_is_what_lies_in_the_buffers(family: int, rounds: list[list[int]]) -> None:
    with bound(family) as server, bound(family) as one, bound(family) as other:
        batch = Batch(family)
        for sizes in rounds:
            # given datagrams of two clients in turn
            clients = [(one, other)[number % 2] for number in range(len(sizes))]
            sent = [bytes((number,)) * size for number, size in enumerate(sizes)]
            for client, data in zip(clients, sent, strict=True):
                client.sendto(data, server.getsockname()[:2])

            count = batch.receive(server.fileno())

            # then they are there in order, each with its source
            assert contents(batch, count) == sent
            paths = [source_path(3, source) for source in batch.sources(count)]
            assert paths == [pack_path(3, *client.getsockname()[:2]) for client in clients]


@families
def test_an_empty_socket_gives_nothing(family: int) -> None:
    with bound(family) as server:
        assert Batch(family).receive(server.fileno()) == 0


@families
def test_a_call_takes_at_most_a_batch(family: int) -> None:
    with bound(family) as server, bound(family) as client:
        for _ in range(MAX_BATCH + 5):
            client.sendto(b"x", server.getsockname()[:2])
        batch = Batch(family)

        assert [batch.receive(server.fileno()) for _ in range(3)] == [MAX_BATCH, 5, 0]


@families
@pytest.mark.parametrize("size", [MAX_DATAGRAM_BYTES + 1, 65_000])
def test_a_datagram_that_is_too_long_shows_and_harms_no_neighbour(family: int, size: int) -> None:
    assert SLOT_BYTES > MAX_DATAGRAM_BYTES
    with bound(family) as server, bound(family) as client:
        for data in (b"before", bytes(size), b"after"):
            client.sendto(data, server.getsockname()[:2])
        batch = Batch(family)

        count = batch.receive(server.fileno())

        assert contents(batch, count) == [b"before", bytes(MAX_DATAGRAM_BYTES + 1), b"after"]


def test_a_closed_descriptor_gives_nothing() -> None:
    with bound(socket.AF_INET) as server:
        fd = server.fileno()

    assert Batch(socket.AF_INET).receive(fd) == 0
