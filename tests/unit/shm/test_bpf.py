"""The binding to libbpf and the loading of the program: every failure has its reason, nothing is left open."""

import contextlib
import ctypes
import errno
import os
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.conftest import steering_unavailable
from voicerelay.relay import steering
from voicerelay.relay.steering import OBJECT
from voicerelay.shm import bpf, counters, frame, stun, ufrag
from voicerelay.shm.bpf import BpfMap, BpfObject, BpfUnavailable
from voicerelay.shm.region import MIN_CAPACITY, Sizes

SIZES = Sizes.for_capacity(MIN_CAPACITY)
KEY_BYTES, OWNER_BYTES = 20, 8
KEY, OWNER = b"AAAAbbbbCCCCdddd0001", struct.pack("=II", 1, 2)
CYCLES = 20
SO_DETACH_REUSEPORT_BPF = 68  # <asm-generic/socket.h>
Group = list[list[socket.socket]]


@pytest.fixture
def kernel() -> None:
    if reason := steering_unavailable():
        pytest.skip(f"kernel steering: {reason}")


@pytest.fixture
def program(kernel: None) -> Iterator[BpfObject]:
    """Loaded, with room for 4 routes."""
    opened = BpfObject(OBJECT)
    opened.resize("routes", 4)
    opened.load()
    yield opened
    opened.close()


@pytest.fixture
def routes(program: BpfObject) -> Iterator[BpfMap]:
    fd = program.map_fd("routes")
    yield BpfMap(fd, OWNER_BYTES)
    os.close(fd)


@contextlib.contextmanager
def open_group() -> Iterator[Group]:
    """A relay's and a transceiver's sockets of two listen addresses."""
    first = [bound(0), bound(0)]
    both = [first, [bound(sock.getsockname()[1]) for sock in first]]
    yield both
    for sock in (*both[0], *both[1]):
        sock.close()


@pytest.fixture
def group() -> Iterator[Group]:
    with open_group() as both:
        yield both


def bound(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    return sock


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def has_program(sock: socket.socket) -> bool:
    """Whether a program was attached to the socket's group; it is not any more."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, 0)
    except FileNotFoundError:
        return False
    return True


# ---- maps ------------------------------------------------------------------------------------


def test_a_map_gives_back_what_was_put_and_forgets_what_was_removed(routes: BpfMap) -> None:
    assert routes.get(KEY) is None
    assert list(routes.keys(KEY_BYTES)) == []
    assert not routes.remove(KEY)

    routes.put(KEY, bytes(OWNER_BYTES))
    routes.put(KEY, OWNER)
    routes.put(bytes(KEY_BYTES), OWNER)  # bytes of value 0 are a key like any other

    assert routes.get(KEY) == routes.get(bytes(KEY_BYTES)) == OWNER
    assert set(routes.keys(KEY_BYTES)) == {KEY, bytes(KEY_BYTES)}
    assert routes.remove(KEY)
    assert routes.get(KEY) is None


def test_a_full_map_says_so_and_takes_more_once_there_is_room(routes: BpfMap) -> None:
    keys = [bytes([number]) * KEY_BYTES for number in range(5)]
    for key in keys[:4]:
        routes.put(key, OWNER)

    with pytest.raises(OSError, match="map update") as full:
        routes.put(keys[4], OWNER)

    assert full.value.errno == errno.E2BIG
    routes.remove(keys[0])
    routes.put(keys[4], OWNER)
    assert set(routes.keys(KEY_BYTES)) == set(keys[1:])


def test_a_map_outlives_the_object_that_it_was_loaded_with(kernel: None) -> None:
    program = BpfObject(OBJECT)
    program.load()
    fd = program.map_fd("routes")
    program.close()

    routes = BpfMap(fd, OWNER_BYTES)
    routes.put(KEY, OWNER)

    assert routes.get(KEY) == OWNER
    os.close(fd)


def test_what_is_no_map_is_an_error_with_the_kernels_reason(kernel: None, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        no_map = BpfMap(file.fileno(), OWNER_BYTES)

        with pytest.raises(OSError, match=f"map update: {os.strerror(errno.EINVAL)}"):
            no_map.put(KEY, OWNER)
        with pytest.raises(OSError, match=r"pin .*/pinned: "):
            bpf.pin(file.fileno(), tmp_path / "pinned")


# ---- objects ---------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [None, b"", b"no ELF", b"\x7fELF" + bytes(60)])
def test_a_file_that_is_no_object_cannot_be_opened(
    kernel: None, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "broken.bpf.o"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(OSError, match=r"cannot open broken\.bpf\.o") as refused:
        BpfObject(path)

    assert refused.value.errno
    assert content is not None or refused.value.errno == errno.ENOENT


def test_names_that_the_object_does_not_have_are_errors(program: BpfObject) -> None:
    for attempt in (
        lambda: program.map_fd("nothing"),
        lambda: program.resize("nothing", 4),
        lambda: program.program_fd("nothing"),
    ):
        with pytest.raises(OSError, match="nothing"):
            attempt()


def test_what_the_kernel_does_not_load_is_an_error_with_its_reason(kernel: None) -> None:
    program = BpfObject(OBJECT)
    program.resize("generations", 0)  # no array has no entries

    with pytest.raises(OSError, match="load: ") as refused:
        program.load()

    program.close()
    assert refused.value.errno == errno.EINVAL


def test_without_the_library_the_package_to_install_is_named(
    monkeypatch: pytest.MonkeyPatch, group: Group
) -> None:
    def missing(name: str, use_errno: bool = False) -> ctypes.CDLL:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(bpf._Library, "_loaded", None)
    monkeypatch.setattr(ctypes, "CDLL", missing)
    if not OBJECT.exists():
        pytest.skip("kernel steering: the program was not built")

    for attempt in (
        lambda: BpfObject(OBJECT),
        lambda: BpfMap(0, 4),
        bpf.possible_cpus,
        lambda: steering.load(group[:1], group[1:], SIZES),
    ):
        with pytest.raises(BpfUnavailable, match="libbpf1"):
            attempt()


# ---- the program of a group ------------------------------------------------------------------


def test_loading_and_closing_leaks_no_descriptor(kernel: None) -> None:
    before = open_files()

    for _ in range(CYCLES):
        with open_group() as group:
            for steered in steering.load(group[:1], group[1:], SIZES):
                steered.close()
            assert [has_program(sock) for sock in group[0]] == [True, True]

    assert open_files() == before


def test_a_program_that_was_not_built_is_no_steering(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, group: Group
) -> None:
    monkeypatch.setattr(steering, "OBJECT", tmp_path / "steer.bpf.o")

    with pytest.raises(BpfUnavailable, match="install clang and libbpf-dev"):
        steering.load(group[:1], group[1:], SIZES)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EPERM, "CAP_BPF"),
        (errno.EACCES, "CAP_BPF"),
        (errno.ENOSYS, "this kernel does not take it"),
        (errno.EINVAL, "this kernel does not take it"),
        (errno.ENOPROTOOPT, "this kernel does not take it"),
        (errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ],
)
def test_a_refused_load_says_what_is_missing(
    kernel: None, monkeypatch: pytest.MonkeyPatch, group: Group, number: int, reason: str
) -> None:
    def refused(_: BpfObject) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(BpfObject, "load", refused)
    before = open_files()

    with pytest.raises(BpfUnavailable, match=reason):
        steering.load(group[:1], group[1:], SIZES)

    assert open_files() == before


def test_a_failure_at_any_listen_address_leaves_nothing_attached_and_nothing_open(
    kernel: None, group: Group
) -> None:
    # given sockets of which one of the second listen address cannot be in a group
    alone = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    before = open_files()

    # when they are to be steered
    with pytest.raises(BpfUnavailable):
        steering.load(group[:1], [[group[1][0], alone]], SIZES)
    alone.close()

    # then no listen address is
    assert [has_program(sock) for sock in group[0]] == [False, False]
    assert open_files() == before - 1


def test_the_program_and_the_rest_agree_on_every_number() -> None:
    source = OBJECT.with_name("steer.bpf.c").read_text()
    defined = {name: int(value) for name, value in re.findall(r"#define (\w+)\s+(\d+)", source)}

    for module in (counters, frame, ufrag, stun):
        shared = defined.keys() & vars(module).keys()
        assert {n: defined.pop(n) for n in shared} == {n: vars(module)[n] for n in shared}
    assert defined == {"UDP_HEADER_BYTES": 8, "STUN_HEADER_BYTES": 20, "MAX_ATTRIBUTES": 8}
