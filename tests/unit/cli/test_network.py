"""Addresses and sockets: what is listened on, what clients are told, and why a port cannot be had."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from voicerelay.cli import network
from voicerelay.cli.errors import UserError
from voicerelay.cli.network import (
    MAX_LISTEN_ADDRESSES,
    candidate_hosts,
    check_http,
    expand,
    open_public_sockets,
    primary_address,
)


class Interface(NamedTuple):
    """What psutil tells of one address."""

    family: int
    address: str


# Gives up root's rights, then asks for a port.
LOW_PORT = """
import os, sys
from voicerelay.cli import errors, network
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
try:
    network.open_public_sockets(["127.0.0.1"], int(sys.argv[1]), 1)
except errors.UserError as exc:
    print(exc.message)
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits here for a killed instance to let go of its port."""
    monkeypatch.setattr(network, "PORT_WAIT_S", 0.0)


@pytest.fixture
def interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with addresses of every kind."""
    found = {
        "lo": [Interface(socket.AF_INET, "127.0.0.1"), Interface(socket.AF_INET6, "::1")],
        "eth0": [
            Interface(socket.AF_INET, "192.0.2.1"),
            Interface(socket.AF_INET, "192.0.2.2"),
            Interface(socket.AF_INET6, "2001:db8::1"),
            Interface(socket.AF_INET6, "fe80::1%eth0"),
            Interface(socket.AF_PACKET, "00:00:00:00:00:01"),
        ],
        "eth1": [
            Interface(socket.AF_INET, "169.254.1.1"),
            Interface(socket.AF_INET6, "2001:db8::2%eth1"),
            Interface(socket.AF_INET, "192.0.2.1"),
        ],
    }
    monkeypatch.setattr("psutil.net_if_addrs", lambda: found)


@pytest.fixture
def taken_udp() -> Iterator[int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def free_udp() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.mark.usefixtures("interfaces")
@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        (["0.0.0.0"], ["192.0.2.1", "192.0.2.2"]),
        (["::"], ["2001:db8::1", "2001:db8::2"]),
        (["0.0.0.0", "::"], ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"]),
        (["192.0.2.2", "0.0.0.0"], ["192.0.2.2", "192.0.2.1"]),
        (["192.0.2.9", "192.0.2.9"], ["192.0.2.9"]),
        (["2001:DB8:0:0::1"], ["2001:db8::1"]),
    ],
)
def test_listen_addresses_are_explicit_and_given_once(
    listen: list[str], expected: list[str]
) -> None:
    assert expand(listen) == expected


def test_a_wildcard_of_a_host_without_addresses_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    only_loopback = {"lo": [Interface(socket.AF_INET, "127.0.0.1")]}
    monkeypatch.setattr("psutil.net_if_addrs", lambda: only_loopback)

    with pytest.raises(UserError, match="wildcard matches no address"):
        expand(["0.0.0.0"])


def test_without_listen_the_primary_address_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "primary_address", lambda: "192.0.2.7")

    assert expand([]) == ["192.0.2.7"]


def test_this_host_has_a_primary_address() -> None:
    host = primary_address()

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))


def test_more_listen_addresses_than_the_limit_are_refused() -> None:
    hosts = [f"192.0.2.{number}" for number in range(MAX_LISTEN_ADDRESSES + 1)]

    assert expand(hosts[:-1]) == hosts[:-1]
    with pytest.raises(UserError, match=f"at most {MAX_LISTEN_ADDRESSES}"):
        expand(hosts)


UNUSABLE = [
    *("", "localhost", "192.0.2.256", "192.0.2.1:80", "192.0.2.0/24", "[::1]"),
    *("224.0.0.1", "ff02::1", "fe80::1", "fe80::1%lo", "255.255.255.255"),
]


@pytest.mark.parametrize("text", UNUSABLE)
def test_an_address_that_nobody_can_call_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--listen"):
        expand([text])


@pytest.mark.parametrize("text", [*UNUSABLE, "0.0.0.0", "::"])
def test_a_public_address_that_nobody_can_call_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--public-ip"):
        candidate_hosts(["192.0.2.1"], [text])


@pytest.mark.parametrize(
    ("listen", "public", "expected"),
    [
        (["10.0.0.1"], [], ["10.0.0.1"]),
        (["10.0.0.1"], ["192.0.2.1"], ["192.0.2.1"]),
        (["10.0.0.1", "10.0.0.2"], ["192.0.2.1", "192.0.2.2"], ["192.0.2.1", "192.0.2.2"]),
        (["10.0.0.1", "10.0.0.2", "fd00::1"], ["192.0.2.1"], ["192.0.2.1", "192.0.2.1", "fd00::1"]),
        (
            ["10.0.0.1", "10.0.0.2", "fd00::1"],
            ["2001:db8::1", "192.0.2.1"],
            ["192.0.2.1", "192.0.2.1", "2001:db8::1"],
        ),
    ],
)
def test_clients_are_told_the_public_address(
    listen: list[str], public: list[str], expected: list[str]
) -> None:
    assert candidate_hosts(listen, public) == expected


@pytest.mark.parametrize(
    ("listen", "public"),
    [
        (["10.0.0.1"], ["192.0.2.1", "192.0.2.2"]),
        (["10.0.0.1", "10.0.0.2", "10.0.0.3"], ["192.0.2.1", "192.0.2.2"]),
    ],
)
def test_public_addresses_that_do_not_fit_are_refused(listen: list[str], public: list[str]) -> None:
    with pytest.raises(UserError, match="--public-ip"):
        candidate_hosts(listen, public)


def test_every_relay_has_a_socket_for_every_address() -> None:
    port = free_udp()

    groups = open_public_sockets(["127.0.0.1", "::1"], port, 3)

    names = [[sock.getsockname()[:2] for sock in group] for group in groups]
    assert names == [[("127.0.0.1", port), ("::1", port)]] * 3
    for sock in (sock for group in groups for sock in group):
        assert not sock.getblocking()
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= 1 << 16
        sock.close()


def test_the_smallest_receive_buffer_is_told() -> None:
    sockets = [[socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]]
    for sock, size in zip(sockets[0], (16_384, 8_192), strict=True):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)

    found = network.receive_buffer_bytes(sockets)

    network.close_all(sockets)
    assert found == 8_192
    assert [sock.fileno() for sock in sockets[0]] == [-1, -1]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to pass over rmem_max")
def test_with_the_right_every_receive_buffer_is_as_asked() -> None:
    sockets = open_public_sockets(["127.0.0.1"], free_udp(), 2)

    assert network.receive_buffer_bytes(sockets) == network.RECEIVE_BUFFER_BYTES

    network.close_all(sockets)


def test_a_taken_udp_port_is_said(taken_udp: int) -> None:
    with pytest.raises(UserError, match=f"UDP 127.0.0.1:{taken_udp} is in use.*--port"):
        open_public_sockets(["127.0.0.1"], taken_udp, 1)


def test_the_port_of_another_instance_is_taken_too() -> None:
    # given sockets that would let others join their group
    port = free_udp()
    ((sock,),) = open_public_sockets(["127.0.0.1"], port, 1)

    with sock, pytest.raises(UserError, match="is in use"):
        open_public_sockets(["127.0.0.1"], port, 1)


def test_a_port_that_is_let_go_in_time_is_had(
    taken_udp: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a port whose holder ends while it is asked for
    monkeypatch.setattr(network, "PORT_WAIT_S", 10.0)
    holder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    holder.bind(("127.0.0.1", 0))
    port = holder.getsockname()[1]
    monkeypatch.setattr("time.sleep", lambda _: holder.close())

    ((sock,),) = open_public_sockets(["127.0.0.1"], port, 1)

    assert sock.getsockname()[1] == port != taken_udp
    sock.close()


def test_a_taken_http_port_is_said() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]

        with pytest.raises(UserError, match=f"HTTP 127.0.0.1:{port} is in use.*--http"):
            check_http("127.0.0.1", port)


def test_a_free_http_port_is_left_free() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]

    check_http("127.0.0.1", port)
    check_http("127.0.0.1", port)


@pytest.mark.parametrize("host", ["a..b", "ä..b", "ä" * 70])
def test_a_name_that_is_none_is_said(host: str) -> None:
    with pytest.raises(UserError, match=r"--http|HTTP"):
        check_http(host, 8080)


@pytest.mark.parametrize(("host", "shown"), [("198.51.100.1", "198"), ("2001:db8::9", r"\[2001")])
def test_an_address_of_another_host_is_said(host: str, shown: str) -> None:
    with pytest.raises(UserError, match=f"UDP {shown}.*is not an address of this host"):
        open_public_sockets([host], 45454, 1)


def test_a_port_that_needs_a_right_is_said() -> None:
    # given a process without rights
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if first <= 1:
        pytest.skip("this host lets anybody have every port")
    command = [sys.executable, "-P", "-c", LOW_PORT, str(first - 1)]

    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    assert done.stdout.startswith(f"no permission for UDP 127.0.0.1:{first - 1}"), done.stderr
    assert "--port" in done.stdout
