"""Pins and kept descriptors: what is behind them is used by whoever comes next, if it is what it should be."""

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import pytest

from tests.support import bpffs
from tests.system.conftest import steering_unavailable
from voicerelay.relay import steering
from voicerelay.relay.steering import SteeredGroup
from voicerelay.shm import bpf
from voicerelay.shm.bpf import BpfMap, BpfUnavailable
from voicerelay.shm.path import pack_path
from voicerelay.shm.region import MIN_CAPACITY, Sizes

SIZES = Sizes.for_capacity(MIN_CAPACITY)
LOCALS = 2  # listen addresses
OWNER = struct.pack("=II", 1, 7)
FLOWS = [b"\0" + pack_path(0, "192.0.2.1", 4000 + local)[1:] for local in range(LOCALS)]
NOBODY = 65_534


@pytest.fixture(scope="module")
def fs() -> Iterator[Path]:
    """A bpffs of our own."""
    if reason := steering_unavailable() or bpffs.obstacle():
        pytest.skip(f"kernel steering: {reason}")
    with bpffs.mounted() as mounted:
        yield mounted.path


@pytest.fixture
def members() -> Iterator[list[list[socket.socket]]]:
    """Of a relay and of a transceiver, one a listen address."""
    first = [bound(0) for _ in range(LOCALS)]
    own = [bound(sock.getsockname()[1]) for sock in first]
    made = [first, own]
    yield made
    for sock in chain(*made):
        sock.close()


@pytest.fixture
def groups(fs: Path, members: list[list[socket.socket]]) -> Iterator[list[SteeredGroup]]:
    """Two listen addresses, each with a flow of its own."""
    loaded = steering.load(members[:1], members[1:], SIZES)
    for group, flow in zip(loaded, FLOWS, strict=True):
        BpfMap(group.flows, steering.OWNER_BYTES).put(flow, OWNER)
    yield loaded
    for group in loaded:
        group.close()


@pytest.fixture
def pinned(fs: Path, groups: list[SteeredGroup]) -> Iterator[Path]:
    directory = fs / "voicerelay-test"
    steering.pin(groups, directory)
    yield directory
    for path in sorted(directory.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    directory.rmdir()


def bound(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    return sock


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_everything_of_each_listen_address_has_its_name(pinned: Path) -> None:
    names = {path.name: sorted(os.listdir(path)) for path in pinned.iterdir()}

    everything = ["counters", "flows", "generations", "relays", "routes", "sockets", "steer"]
    assert names == {"0": everything, "1": everything}
    assert pinned.stat().st_mode & 0o077 == 0


def test_what_is_reopened_has_what_is_in_use(groups: list[SteeredGroup], pinned: Path) -> None:
    before = open_files()

    found = steering.reopen(pinned, SIZES)

    for local, (group, original) in enumerate(zip(found, groups, strict=True)):
        flows = BpfMap(group.flows, steering.OWNER_BYTES)
        assert list(flows.keys(len(FLOWS[local]))) == [FLOWS[local]]
        flows.remove(FLOWS[local])
        assert BpfMap(original.flows, steering.OWNER_BYTES).get(FLOWS[local]) is None
        assert bpf.is_program(group.steer)
        group.close()
    assert open_files() == before


def test_pins_that_are_there_are_not_replaced(groups: list[SteeredGroup], pinned: Path) -> None:
    with pytest.raises(BpfUnavailable, match="File exists"):
        steering.pin(groups, pinned)

    assert len(list(pinned.iterdir())) == LOCALS


def test_what_cannot_be_pinned_whole_is_not_pinned_at_all(
    fs: Path, groups: list[SteeredGroup], monkeypatch: pytest.MonkeyPatch
) -> None:
    pins = iter([bpf.pin] * 9)  # the tenth fails

    def limited(fd: int, path: Path) -> None:
        if (one := next(pins, None)) is None:
            raise OSError(28, "No space left on device")
        one(fd, path)

    monkeypatch.setattr(bpf, "pin", limited)

    with pytest.raises(BpfUnavailable, match="No space left"):
        steering.pin(groups, fs / "half")

    assert not (fs / "half").exists()


def test_without_bpffs_the_reason_names_it(groups: list[SteeredGroup], tmp_path: Path) -> None:
    with pytest.raises(BpfUnavailable, match=f"bpffs is not mounted at {tmp_path}$"):
        steering.pin(groups, tmp_path / "voicerelay-test")

    assert list(tmp_path.iterdir()) == []


def replace(pinned: Path, name: str, fd: int) -> None:
    path = pinned / "1" / name
    path.unlink()
    bpf.pin(fd, path)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("flows", "generations"),  # another kind of map
        ("routes", "flows"),  # another number of entries
        ("relays", "generations"),
        ("counters", "steer"),  # no map
        ("steer", "flows"),  # no program
    ],
)
def test_what_is_not_as_it_should_be_is_refused(
    groups: list[SteeredGroup], pinned: Path, name: str, other: str
) -> None:
    replace(pinned, name, asdict(groups[1])[other])
    before = open_files()

    with pytest.raises(BpfUnavailable, match="the pins cannot be used"):
        steering.reopen(pinned, SIZES)

    assert open_files() == before


def test_other_sizes_are_refused(pinned: Path) -> None:
    with pytest.raises(BpfUnavailable, match="0/flows is of another kind or size"):
        steering.reopen(pinned, Sizes.for_capacity(2 * MIN_CAPACITY))


def test_a_missing_pin_is_refused(pinned: Path) -> None:
    (pinned / "1" / "steer").unlink()

    with pytest.raises(BpfUnavailable, match=r"the pins cannot be used: open .*/1/steer"):
        steering.reopen(pinned, SIZES)


def test_no_pins_and_an_empty_directory_are_refused(fs: Path) -> None:
    with pytest.raises(BpfUnavailable, match="the pins cannot be used"):
        steering.reopen(fs / "nothing", SIZES)

    (fs / "empty").mkdir()
    with pytest.raises(BpfUnavailable, match="empty"):
        steering.reopen(fs / "empty", SIZES)
    (fs / "empty").rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give it away")
def test_another_users_pins_are_refused(pinned: Path) -> None:
    os.chown(pinned, NOBODY, NOBODY)

    with pytest.raises(BpfUnavailable, match="another user's"):
        steering.reopen(pinned, SIZES)


def test_every_map_of_the_object_has_the_shape_that_is_expected(
    groups: list[SteeredGroup],
) -> None:
    for group in groups:
        descriptors = asdict(group)
        assert bpf.is_program(descriptors.pop(steering.PROGRAM))
        found = {name: bpf.map_shape(fd) for name, fd in descriptors.items()}
        assert found == steering._shapes(SIZES)


def kept(groups: list[SteeredGroup]) -> list[dict[str, int]]:
    """Copies of the descriptors, as a service manager gives them back."""
    return [{name: os.dup(fd) for name, fd in asdict(group).items()} for group in groups]


def test_what_was_kept_is_taken_over_with_all_that_is_in_it(
    groups: list[SteeredGroup], members: list[list[socket.socket]]
) -> None:
    found = steering.take_over(kept(groups), members[:1], members[1:], SIZES)

    for local, group in enumerate(found):
        flows = BpfMap(group.flows, steering.OWNER_BYTES)
        assert list(flows.keys(len(FLOWS[local]))) == [FLOWS[local]]
        group.close()


def test_sockets_that_are_new_take_their_places_in_what_was_kept(
    groups: list[SteeredGroup], members: list[list[socket.socket]]
) -> None:
    # given that the sockets of the group are others than when it was loaded
    ports = [sock.getsockname()[1] for sock in members[0]]
    for sock in chain(*members):
        sock.close()
    members[:] = [[bound(port) for port in ports] for _ in range(2)]

    found = steering.take_over(kept(groups), members[:1], members[1:], SIZES)

    for group in found:
        places = BpfMap(group.sockets, 8)
        with pytest.raises(OSError, match="busy"):
            places.put(struct.pack("=I", 0), struct.pack("=Q", members[0][0].fileno()))
        group.close()


@pytest.mark.parametrize("what", ["sizes", "a map is missing", "a map is another", "addresses"])
def test_what_was_kept_of_another_kind_is_closed_and_refused(
    groups: list[SteeredGroup], members: list[list[socket.socket]], what: str
) -> None:
    before = open_files()
    found, sizes = kept(groups), SIZES
    match what:
        case "sizes":
            sizes = Sizes.for_capacity(4 * MIN_CAPACITY)
        case "a map is missing":
            os.close(found[1].pop("flows"))
        case "a map is another":
            os.dup2(found[0]["counters"], found[0]["routes"])
        case "addresses":
            for fd in found.pop().values():
                os.close(fd)

    with pytest.raises(BpfUnavailable, match="what was kept cannot be used"):
        steering.take_over(found, members[:1], members[1:], sizes)

    assert open_files() == before
