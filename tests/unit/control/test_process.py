"""The control process: takes over, says why it cannot, and cleans up after its supervisor."""

import itertools
import json
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from voicerelay.cli.fleet import CONTROL_HUNG_LOOKS, CONTROL_LOOK_S
from voicerelay.control.process import (
    ControlSettings,
    clean_up_after_supervisor,
    open_region,
)
from voicerelay.shm import rundir
from voicerelay.shm.counters import ControlCounter
from voicerelay.shm.lifeline import FAILED, MAX_REPORT_BYTES, READY
from voicerelay.shm.region import (
    HEADER_BYTES,
    MAX_CAPACITY,
    MIN_CAPACITY,
    Region,
    remove_segments,
)
from voicerelay.shm.table import Entry

PATIENCE_S = 30.0
INSTANCE = bytes(range(16))
BOOT_ID_AT = 16  # in the region's header
NOBODY = 65_534
KEY = b"k" * 20
ENTRY = Entry(1, 2, 3, 4)
RUN = ["-m", "voicerelay.control"]


@pytest.fixture
def run_dir() -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="vrtest-"))
    chosen = base / "run"
    chosen.mkdir()
    yield chosen
    remove_segments(rundir.region_name(chosen))
    shutil.rmtree(base)


def settings_for(run_dir: Path, capacity: int = MIN_CAPACITY) -> ControlSettings:
    return ControlSettings(str(run_dir), INSTANCE.hex(), capacity, [[]])


# Control in a host whose /dev/shm has one free block.
FULL = """
import os, sys
from voicerelay.control.process import ControlSettings, main
stat = os.statvfs("/dev/shm")
os.statvfs = lambda _: os.statvfs_result((*stat[:4], 1, *stat[5:]))
main(ControlSettings.from_json(sys.argv[1]))
"""


@contextmanager
def control(
    settings: ControlSettings, script: str = ""
) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """A control process and the supervisor's end of its lifeline."""
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE_S)
    given = json.dumps(asdict(replace(settings, lifeline=theirs.fileno())))
    process = subprocess.Popen(
        [sys.executable, "-P", *(["-c", script] if script else RUN), given],
        pass_fds=[theirs.fileno()],
    )
    theirs.close()
    try:
        with process, ours:
            try:
                yield process, ours
            finally:
                process.kill()
    finally:
        ours.close()


def test_settings_survive_the_command_line() -> None:
    settings = ControlSettings(
        "/run/x", "00ff", 16, [[3, 4], [5, 6]], [[7]], [{"a": 8}], 9, "debug"
    )

    assert ControlSettings.from_json(json.dumps(asdict(settings))) == settings


def test_a_first_control_makes_the_region(run_dir: Path) -> None:
    region = open_region(run_dir, INSTANCE, MIN_CAPACITY)

    assert (region.instance, region.sizes.capacity) == (INSTANCE, MIN_CAPACITY)
    region.close()


def test_a_restarted_control_finds_the_region_as_it_was(run_dir: Path) -> None:
    # given the region of a control that was killed
    first = open_region(run_dir, INSTANCE, MIN_CAPACITY)
    first.route_writer().put(KEY, ENTRY)
    generation = first.next_generation()
    key = first.cluster_key
    first.close()

    second = open_region(run_dir, INSTANCE, MIN_CAPACITY)

    assert second.route_reader().find(KEY) == ENTRY
    assert second.cluster_key == key
    assert second.next_generation() > generation
    second.close()


@pytest.mark.parametrize(
    ("instance", "capacity"), [(bytes(16), MIN_CAPACITY), (INSTANCE, MIN_CAPACITY * 2)]
)
def test_a_region_of_another_kind_is_replaced(
    run_dir: Path, instance: bytes, capacity: int
) -> None:
    first = open_region(run_dir, INSTANCE, MIN_CAPACITY)
    first.route_writer().put(KEY, ENTRY)
    first.close()

    second = open_region(run_dir, instance, capacity)

    assert (second.instance, second.sizes.capacity) == (instance, capacity)
    assert second.route_reader().find(KEY) is None
    second.close()


def test_without_a_supervisor_the_tables_know_the_instance(run_dir: Path) -> None:
    # given what an earlier control made, under a service manager
    first = open_region(run_dir, b"", MIN_CAPACITY)
    instance = first.instance
    first.route_writer().put(KEY, ENTRY)
    first.close()

    again = open_region(run_dir, b"", MIN_CAPACITY)

    assert (again.instance, again.route_reader().find(KEY)) == (instance, ENTRY)
    again.close()


@pytest.mark.parametrize("whose", ["an earlier boot's", "another user's"])
def test_without_a_supervisor_leftovers_make_way_for_a_new_instance(
    run_dir: Path, whose: str
) -> None:
    if whose == "another user's" and os.geteuid() != 0:
        pytest.skip("needs root to give it away")
    old = open_region(run_dir, b"", MIN_CAPACITY)
    instance = old.instance
    old.close()
    (run_dir / "frames-0-1.sock").touch()
    segment = Path("/dev/shm") / f"{rundir.region_name(run_dir)}.tables"
    if whose == "another user's":
        os.chown(segment, NOBODY, NOBODY)
    else:
        data = bytearray(segment.read_bytes())
        data[BOOT_ID_AT] ^= 1
        segment.write_bytes(data)

    new = open_region(run_dir, b"", MIN_CAPACITY)

    assert new.instance != instance
    assert list(run_dir.iterdir()) == []
    new.close()


def test_what_a_killed_supervisor_left_is_removed(run_dir: Path) -> None:
    open_region(run_dir, INSTANCE, MIN_CAPACITY).close()
    rundir.control_socket(run_dir).touch()

    clean_up_after_supervisor(run_dir)

    assert not run_dir.exists()
    assert not remove_segments(rundir.region_name(run_dir))


def test_a_successor_of_the_supervisor_is_left_alone(run_dir: Path) -> None:
    # given a new instance in the same place
    lock = rundir.InstanceLock(run_dir)
    lock.acquire()
    open_region(run_dir, INSTANCE, MIN_CAPACITY).close()

    clean_up_after_supervisor(run_dir)

    assert run_dir.exists()
    Region.attach(rundir.region_name(run_dir), INSTANCE).close()
    lock.release()


def test_control_says_that_shared_memory_is_full(run_dir: Path) -> None:
    with control(settings_for(run_dir), FULL) as (process, lifeline):
        report = lifeline.recv(MAX_REPORT_BYTES)
        code = process.wait(PATIENCE_S)

    assert report.startswith(FAILED + b"cannot make the shared tables: /dev/shm has 0 MiB free")
    assert code == 2


def test_the_reason_reaches_the_supervisor(run_dir: Path) -> None:
    # given a run directory whose region cannot be made, because something else has its name
    segment = Path("/dev/shm") / f"{rundir.region_name(run_dir)}.tables"
    segment.mkdir()

    with control(settings_for(run_dir)) as (process, lifeline):
        report = lifeline.recv(MAX_REPORT_BYTES)
        code = process.wait(PATIENCE_S)
    segment.rmdir()

    assert report.startswith(FAILED + b"cannot make the shared tables")
    assert code == 2


def test_control_cleans_up_when_its_supervisor_is_gone(run_dir: Path) -> None:
    with control(settings_for(run_dir)) as (process, lifeline):
        ready = lifeline.recv(MAX_REPORT_BYTES)

        lifeline.close()
        code = process.wait(PATIENCE_S)

    assert (ready, code) == (READY, 0)
    assert not run_dir.exists()
    assert not remove_segments(rundir.region_name(run_dir))


def test_a_killed_control_is_followed_by_one_that_repairs(run_dir: Path) -> None:
    # given a control that was killed in the middle of a write
    with control(settings_for(run_dir)) as (process, lifeline):
        assert lifeline.recv(MAX_REPORT_BYTES) == READY
        process.kill()
    region = Region.attach(rundir.region_name(run_dir), INSTANCE)
    region.route_writer().put(KEY, ENTRY)
    half_written = Path("/dev/shm") / f"{region.name}.tables"
    with half_written.open("r+b") as file:
        file.seek(HEADER_BYTES + (5 * 64))
        file.write(struct.pack("<I", 7))

    with control(settings_for(run_dir)) as (process, lifeline):
        ready = lifeline.recv(MAX_REPORT_BYTES)
        repaired = region.counters.control().get(ControlCounter.RECORDS_REPAIRED)
        process.terminate()
        code = process.wait(PATIENCE_S)

    assert (ready, repaired, code) == (READY, 1, 0)
    assert region.route_reader().find(KEY) == ENTRY


def test_ctrl_c_is_for_the_supervisor(run_dir: Path) -> None:
    with control(settings_for(run_dir)) as (process, lifeline):
        assert lifeline.recv(MAX_REPORT_BYTES) == READY

        process.send_signal(signal.SIGINT)
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(PATIENCE_S)
            peer.connect(str(rundir.control_socket(run_dir)))
            peer.send(b"\xff\xff\xff\xff")
            answer = peer.recv(1)

        assert answer == b""  # it still reads, and closes who speaks nonsense
        assert process.poll() is None


@pytest.mark.system
def test_a_control_that_takes_over_large_tables_does_not_look_hung(run_dir: Path) -> None:
    # given tables for a million calls, with many in them
    region = open_region(run_dir, INSTANCE, MAX_CAPACITY)
    table = region.route_writer()
    for _ in range(150_000):
        table.put(secrets.token_bytes(20), ENTRY)
    block = region.counters.control()

    # when a control takes them over
    beats: list[int] = []
    deadline = time.monotonic() + PATIENCE_S
    with control(settings_for(run_dir, MAX_CAPACITY)) as (_, lifeline):
        lifeline.setblocking(False)
        ready = b""
        while not ready and time.monotonic() < deadline:
            if block.heartbeat_ns not in beats[-1:]:
                beats.append(block.heartbeat_ns)
            try:
                ready = lifeline.recv(MAX_REPORT_BYTES)
            except BlockingIOError:
                os.sched_yield()
        beats.append(block.heartbeat_ns)

    # then its heart never stands still so long that its supervisor ends it
    assert ready == READY
    seen = [beat for beat in beats if beat]
    longest_s = max(late - early for early, late in itertools.pairwise(seen)) / 1e9
    assert longest_s < CONTROL_LOOK_S * CONTROL_HUNG_LOOKS
