"""What doctor gathers of the network, on loopback, with a STUN server of our own."""

import ipaddress
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from voicerelay.cli.doctor import gather_network as module
from voicerelay.cli.doctor.facts import Wanted
from voicerelay.cli.doctor.gather_network import gather_network
from voicerelay.cli.doctor.stun_query import CHANGE_REQUEST, OTHER_ADDRESS
from voicerelay.shm import stun

CHANGE = CHANGE_REQUEST.to_bytes(2, "big") + b"\x00\x04"


def wanted(udp_port: int, http_port: int = 1, key_file: str = "") -> Wanted:
    return Wanted(
        port=udp_port,
        hosts=("127.0.0.1",),
        public=(),
        http_host="127.0.0.1",
        http_port=http_port,
        relays=1,
        transceivers=1,
        max_sessions=1,
        capacity=16,
        key_file=key_file,
    )


@pytest.fixture(autouse=True)
def no_firewall(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules of the machine that runs the tests are none of their business."""
    monkeypatch.setattr(module, "_firewall", lambda _port: ())
    monkeypatch.setattr(module, "STUN_WAIT_S", 0.05)


@contextmanager
def stun_server(other: bool = True, obeys: bool = True) -> Iterator[tuple[str, int]]:
    """`other`: it says that it has another address; `obeys`: it answers from there when asked."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as second,
    ):
        sock.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                data, peer = sock.recvfrom(2048)
                if data == b"stop":
                    return
                transaction = data[8:20]
                address = ipaddress.ip_address(peer[0]).packed
                value = stun.xor_address(peer[1], address, transaction)
                attributes = [(stun.XOR_MAPPED_ADDRESS, value)]
                attributes += [(OTHER_ADDRESS, bytes(8))] if other else []
                answer = stun.build(stun.BINDING_SUCCESS, transaction, attributes)
                (second if obeys and CHANGE in data else sock).sendto(answer, peer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield sock.getsockname()
        finally:
            second.sendto(b"stop", sock.getsockname())
            thread.join()


def test_a_taken_port_is_in_use_and_a_free_one_is_not() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken,
        socket.create_server(("127.0.0.1", 0)) as serving,
    ):
        taken.bind(("127.0.0.1", 0))
        ports = taken.getsockname()[1], serving.getsockname()[1]

        there = gather_network(wanted(*ports), None, None)
        free = gather_network(wanted(0, 0), None, None)

    assert (there.udp[0].in_use, there.http.in_use) == (True, True)
    assert (free.udp[0].error, free.http.error) == ("", "")


def test_sizes_of_a_running_instance_count() -> None:
    running = {"pid": 17, "receive_buffer_bytes": 4711}

    seen = gather_network(wanted(0), running, None)

    assert (seen.instance_pid, seen.receive_buffer_bytes) == (17, 4711)
    assert gather_network(wanted(0), None, None).receive_buffer_bytes > 0
    assert seen.frame_buffer_bytes > 0


def test_the_mode_of_the_key_file(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.touch(0o640)

    found = gather_network(wanted(0, key_file=str(keys)), None, None)
    missing = gather_network(wanted(0, key_file=str(tmp_path / "no")), None, None)

    assert found.key_file_mode is not None
    assert found.key_file_mode & 0o777 == 0o640
    assert missing.key_file_mode is None


@pytest.mark.parametrize(
    ("server", "unsolicited"),
    [({}, True), ({"other": False}, None), ({"obeys": False}, None)],
    ids=["two addresses", "one address", "ignores the wish"],
)
def test_a_stun_server_tells_our_address(server: dict[str, Any], unsolicited: bool | None) -> None:
    with stun_server(**server) as address:
        mapping = gather_network(wanted(0), None, address).mapping

    assert mapping is not None
    assert (mapping.error, mapping.mapped) == ("", mapping.source)
    assert mapping.unsolicited is unsolicited


def test_a_stun_server_that_does_not_answer_is_said() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))

        mapping = gather_network(wanted(0), None, silent.getsockname()).mapping

    assert mapping is not None
    assert mapping.error.startswith("no answer")


def test_a_command_that_is_missing_or_fails_says_nothing() -> None:
    assert module._output("no-such-command") == ""
    assert module._output("false") == ""
    assert module._output("echo", "yes") == "yes\n"
