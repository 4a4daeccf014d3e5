"""The region: made by one, attached by all, refused when anything about it is not as it must be."""

import os
import secrets
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from voicerelay.shm.counters import COUNTERS_BYTES, ControlCounter
from voicerelay.shm.region import (
    ABI,
    CLUSTER_KEY_BYTES,
    DEFAULT_CAPACITY,
    FLOWS_PER_SESSION,
    HEADER_BYTES,
    INSTANCE_BYTES,
    MAX_CAPACITY,
    MIN_CAPACITY,
    Region,
    RegionMismatch,
    RegionSpaceError,
    Sizes,
    boot_id,
    is_ours,
    power_of_two,
    remove_segments,
    segment_inode,
)
from voicerelay.shm.table import Entry, TableFull

INSTANCE = bytes(range(INSTANCE_BYTES))
SIZES = Sizes.for_capacity(MIN_CAPACITY)
KEY = b"k" * 20
# Where a field of the header stands.
ABI_AT, HEADER_BYTES_AT, BOOT_AT, ROUTES_AT, FLOWS_AT, CAPACITY_AT = 8, 12, 16, 80, 84, 88

ATTACHER = """
import sys
from voicerelay.shm.region import Region
region = Region.attach(sys.argv[1])
table = region.route_reader()
print(table.find(b"k" * 20), flush=True)
"""


@pytest.fixture
def name() -> Iterator[str]:
    chosen = f"vrtest-{secrets.token_hex(6)}"
    yield chosen
    remove_segments(chosen)


def tables_of(name: str) -> Path:
    return Path("/dev/shm") / f"{name}.tables"


def counters_of(name: str) -> Path:
    return Path("/dev/shm") / f"{name}.counters"


def overwrite(name: str, at: int, data: bytes) -> None:
    with tables_of(name).open("r+b") as file:
        file.seek(at)
        file.write(data)


def open_fds() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


def test_whoever_attaches_sees_what_was_created(name: str) -> None:
    # given a region with a route, a flow and a figure
    made = Region.create(name, INSTANCE, SIZES)
    made.route_writer().put(KEY, Entry(1, 2, 3, 4))
    made.flow_writer().put(KEY, Entry(5, 6, 7, 8))
    made.counters.control().set(ControlCounter.PEERS, 9)

    seen = Region.attach(name, INSTANCE)

    assert (seen.instance, seen.cluster_key, seen.sizes) == (INSTANCE, made.cluster_key, SIZES)
    assert seen.route_reader().find(KEY) == Entry(1, 2, 3, 4)
    assert seen.flow_reader().find(KEY) == Entry(5, 6, 7, 8)
    assert seen.counters.control().get(ControlCounter.PEERS) == 9
    seen.close()
    made.close()


def test_closing_leaves_the_segments_and_no_descriptor(name: str) -> None:
    Region.create(name, INSTANCE, SIZES).close()
    before = open_fds()

    Region.attach(name).close()

    assert open_fds() == before
    assert tables_of(name).exists()
    assert counters_of(name).exists()


def test_any_instance_may_be_accepted(name: str) -> None:
    Region.create(name, INSTANCE, SIZES).close()

    region = Region.attach(name)

    assert region.instance == INSTANCE
    region.close()


@pytest.mark.parametrize(
    ("at", "data", "reason"),
    [
        (0, b"NOTVOICE", "not a voicerelay region"),
        (0, bytes(8), "not a voicerelay region"),
        (ABI_AT, struct.pack("<I", ABI + 1), f"ABI {ABI + 1}"),
        (HEADER_BYTES_AT, struct.pack("<I", HEADER_BYTES + 1), "not a voicerelay region"),
        (BOOT_AT, bytes(16), "last boot"),
        (ROUTES_AT, struct.pack("<I", SIZES.routes * 2), "sizes do not match"),
        (FLOWS_AT, struct.pack("<I", SIZES.flows // 2), "sizes do not match"),
        (CAPACITY_AT, struct.pack("<I", MAX_CAPACITY), "sizes do not match"),
        (CAPACITY_AT, struct.pack("<I", MAX_CAPACITY + 1), "out of range"),
        (CAPACITY_AT, struct.pack("<I", MIN_CAPACITY - 1), "out of range"),
    ],
)
def test_a_region_with_a_wrong_header_is_refused(
    name: str, at: int, data: bytes, reason: str
) -> None:
    # given a region of which one field is not as it must be
    Region.create(name, INSTANCE, SIZES).close()
    overwrite(name, at, data)
    before = open_fds()

    with pytest.raises(RegionMismatch, match=reason):
        Region.attach(name, INSTANCE)

    assert open_fds() == before
    assert tables_of(name).exists()


def test_another_instance_is_refused(name: str) -> None:
    Region.create(name, INSTANCE, SIZES).close()

    with pytest.raises(RegionMismatch, match="another instance"):
        Region.attach(name, bytes(INSTANCE_BYTES))


@pytest.mark.parametrize("size", [0, 1, HEADER_BYTES - 1, HEADER_BYTES, SIZES.total_bytes - 1])
def test_a_truncated_region_is_refused(name: str, size: int) -> None:
    Region.create(name, INSTANCE, SIZES).close()
    os.truncate(tables_of(name), size)
    before = open_fds()

    with pytest.raises(RegionMismatch):
        Region.attach(name, INSTANCE)

    assert open_fds() == before


@pytest.mark.parametrize("size", [0, COUNTERS_BYTES - 1])
def test_truncated_counters_are_refused(name: str, size: int) -> None:
    Region.create(name, INSTANCE, SIZES).close()
    os.truncate(counters_of(name), size)

    with pytest.raises(RegionMismatch, match="counters"):
        Region.attach(name, INSTANCE)


def test_a_missing_region_is_refused(name: str) -> None:
    with pytest.raises(RegionMismatch, match="no such"):
        Region.attach(name)


def test_missing_counters_are_refused(name: str) -> None:
    Region.create(name, INSTANCE, SIZES).close()
    counters_of(name).unlink()

    with pytest.raises(RegionMismatch, match="counters are missing"):
        Region.attach(name)


@pytest.mark.parametrize("leftover", ["region", "garbage"])
def test_leftovers_are_replaced_and_never_trusted(name: str, leftover: str) -> None:
    # given what an earlier instance left, sound or not
    if leftover == "region":
        old = Region.create(name, bytes(INSTANCE_BYTES), SIZES)
        old.route_writer().put(KEY, Entry(1, 2, 3, 4))
        old_key = old.cluster_key
        old.close()
    else:
        tables_of(name).write_bytes(b"x" * 10)
        counters_of(name).write_bytes(b"")
        old_key = b""

    region = Region.create(name, INSTANCE, SIZES)

    assert region.instance == INSTANCE
    assert region.cluster_key != old_key
    assert len(region.cluster_key) == CLUSTER_KEY_BYTES
    assert region.route_reader().find(KEY) is None
    region.close()


def test_no_room_is_said_before_anything_is_made(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a /dev/shm with less room than the tables need
    has = os.statvfs("/dev/shm")
    full = os.statvfs_result((*has[:2], has[2], has[3], 1, *has[5:]))
    monkeypatch.setattr("os.statvfs", lambda _: full)

    with pytest.raises(RegionSpaceError, match=r"/dev/shm has 0 MiB free, the tables need \d+ MiB"):
        Region.create(name, INSTANCE, SIZES)

    assert not tables_of(name).exists()
    assert not counters_of(name).exists()


def test_an_attaching_process_leaves_the_segments_when_it_exits(name: str) -> None:
    # given a region that another process attaches to and leaves
    region = Region.create(name, INSTANCE, SIZES)
    region.route_writer().put(KEY, Entry(1, 2, 3, 4))

    done = subprocess.run(
        [sys.executable, "-P", "-c", ATTACHER, name],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.stdout.strip() == str(Entry(1, 2, 3, 4))
    assert (done.returncode, done.stderr) == (0, "")
    assert tables_of(name).exists()
    assert counters_of(name).exists()
    region.close()


def test_the_creating_process_leaves_the_segments_when_it_exits(name: str) -> None:
    script = (
        "import sys; from voicerelay.shm.region import Region, Sizes;"
        "Region.create(sys.argv[1], bytes(16), Sizes.for_capacity(16))"
    )

    done = subprocess.run(
        [sys.executable, "-P", "-c", script, name],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    Region.attach(name, bytes(16)).close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give it away")
def test_a_link_is_not_followed(name: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(bytes(HEADER_BYTES))
    tables_of(name).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(OSError, match="symbolic links"):
        Region.attach(name)


def test_segments_are_for_their_owner_alone(name: str) -> None:
    Region.create(name, INSTANCE, SIZES).close()

    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tables_of(name), counters_of(name))}

    assert modes == {0o600}


def test_nobody_is_started_to_watch_over_segments(name: str) -> None:
    before = psutil.Process().children()

    Region.create(name, INSTANCE, SIZES).close()
    Region.attach(name).close()

    assert psutil.Process().children() == before


def test_what_another_user_put_there_is_not_ours(name: str) -> None:
    Region.create(name, INSTANCE, SIZES).close()
    before = is_ours(name)

    os.chown(counters_of(name), 65_534, 65_534)

    assert (before, is_ours(name), is_ours(f"{name}x")) == (True, False, False)


def test_removed_segments_are_gone(name: str) -> None:
    Region.create(name, INSTANCE, SIZES).close()

    removed, again = remove_segments(name), remove_segments(name)

    assert (removed, again) == (True, False)
    assert not tables_of(name).exists()
    assert not counters_of(name).exists()


def test_half_a_leftover_is_removed_too(name: str) -> None:
    Region.create(name, INSTANCE, SIZES).close()
    tables_of(name).unlink()

    assert remove_segments(name)
    assert not counters_of(name).exists()


def test_a_generation_is_never_given_twice(name: str) -> None:
    # given generations given by one control and its successor
    first = Region.create(name, INSTANCE, SIZES)
    given = [first.next_generation() for _ in range(3)]
    second = Region.attach(name, INSTANCE)

    given += [second.next_generation() for _ in range(3)]

    assert given == [1, 2, 3, 4, 5, 6]
    first.close()
    second.close()


@pytest.mark.parametrize("sessions", [MIN_CAPACITY, 17, DEFAULT_CAPACITY, MAX_CAPACITY])
def test_every_session_has_room_for_its_records(sessions: int) -> None:
    sizes = Sizes.for_capacity(sessions)

    assert sizes.routes >= 2 * sessions
    assert sizes.flows >= 2 * FLOWS_PER_SESSION * sessions
    for records in (sizes.routes, sizes.flows):
        assert records & (records - 1) == 0


@pytest.mark.parametrize("sessions", [-1, 0, MIN_CAPACITY - 1, MAX_CAPACITY + 1])
def test_a_capacity_out_of_range_is_refused(sessions: int) -> None:
    with pytest.raises(ValueError, match=f"{MIN_CAPACITY} to {MAX_CAPACITY}"):
        Sizes.for_capacity(sessions)


def test_a_region_takes_its_capacity_and_then_says_full(name: str) -> None:
    region = Region.create(name, INSTANCE, SIZES)
    routes, flows = region.route_writer(), region.flow_writer()

    for table, room in ((routes, MIN_CAPACITY), (flows, MIN_CAPACITY * FLOWS_PER_SESSION)):
        for number in range(room):
            table.put(number.to_bytes(20, "big"), Entry(0, 0, 0, 0))
        with pytest.raises(TableFull):
            table.put(KEY, Entry(0, 0, 0, 0))


def test_a_region_can_be_closed_while_its_readers_live(name: str) -> None:
    # given a reader and a block that somebody still holds
    region = Region.create(name, INSTANCE, SIZES)
    held = region.route_reader(), region.counters.control()

    region.close()

    with pytest.raises(ValueError, match="released"):
        held[0].find(KEY)


def test_powers_of_two() -> None:
    assert [power_of_two(number) for number in (1, 2, 3, 4, 5, 1024, 1025)] == [
        *(1, 2, 4, 4, 8, 1024, 2048)
    ]


def test_the_boot_id_is_stable() -> None:
    assert boot_id() == boot_id()
    assert len(boot_id()) == 16
    assert boot_id() != bytes(16)


def test_another_region_under_the_name_is_another_segment(name: str) -> None:
    region = Region.create(name, INSTANCE, SIZES)
    first = segment_inode(name)
    again = Region.create(name, INSTANCE, SIZES)

    assert segment_inode(name) != first
    region.close()
    again.close()
    remove_segments(name)
    with pytest.raises(FileNotFoundError):
        segment_inode(name)
