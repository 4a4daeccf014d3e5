"""The socket of a caller: who is heard, what is counted, how it moves."""

import socket
import time
from collections.abc import Iterator

import pytest

from voicerelay.cli.loadtest.endpoint import Endpoint
from voicerelay.cli.loadtest.sdp import Address
from voicerelay.cli.loadtest.tally import Tally

PATIENCE_S = 5.0


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        made.settimeout(PATIENCE_S)
        yield made


@pytest.fixture
def tally() -> Tally:
    return Tally()


@pytest.fixture
def endpoint(tally: Tally) -> Iterator[Endpoint]:
    made = Endpoint("127.0.0.2", tally)
    yield made
    made.close()


def address(peer: socket.socket) -> Address:
    return Address(*peer.getsockname())


def test_before_it_is_connected_it_sends_where_it_is_told(
    endpoint: Endpoint, peer: socket.socket, tally: Tally
) -> None:
    endpoint.send(b"hello", address(peer))
    endpoint.send(b"to nobody")

    assert peer.recvfrom(100) == (b"hello", tuple(endpoint.local))
    assert endpoint.local.host == "127.0.0.2"
    assert (tally.sent, tally.send_failures) == (1, 1)


def test_what_comes_has_the_kernels_time(
    endpoint: Endpoint, peer: socket.socket, tally: Tally
) -> None:
    endpoint.connect(address(peer))
    before = time.time()
    peer.sendto(b"hello", endpoint.local)  # on loopback it is there when this returns
    after = time.time()

    came = endpoint.receive()

    assert came is not None
    assert came[0] == b"hello"
    assert before - 0.001 <= came[1] <= after + 0.001
    assert endpoint.receive() is None
    assert tally.received == 1


def test_it_moves_to_another_port_and_goes_on(
    endpoint: Endpoint, peer: socket.socket, tally: Tally
) -> None:
    endpoint.connect(address(peer))
    old_fd, old = endpoint.fileno(), endpoint.local

    assert endpoint.move() == old_fd
    endpoint.send(b"from elsewhere")

    data, source = peer.recvfrom(100)
    assert (data, source) == (b"from elsewhere", tuple(endpoint.local))
    assert source != tuple(old)
    assert tally.rebinds == 1


def test_a_port_that_nobody_has_is_borne(endpoint: Endpoint, tally: Tally) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        to = address(gone)
    endpoint.connect(to)

    endpoint.send(b"one")
    assert endpoint.receive() is None
    endpoint.send(b"two")

    assert tally.sent + tally.send_failures == 2
