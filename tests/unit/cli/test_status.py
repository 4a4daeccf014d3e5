"""`voicerelay status`: finds the instance that runs, and tells what its shared memory says."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from voicerelay import __version__
from voicerelay.cli import status as module
from voicerelay.cli.errors import NotRunning, UserError
from voicerelay.cli.main import main
from voicerelay.cli.status import (
    HEARTBEAT_OLD_MS,
    StatusReader,
    duration,
    find_run_dir,
    read_status,
    render,
)
from voicerelay.shm import rundir
from voicerelay.shm.counters import (
    HEARTBEAT_NS,
    ControlCounter,
    RelayCounter,
    TransceiverCounter,
)
from voicerelay.shm.region import MIN_CAPACITY, Region, Sizes, remove_segments

DESCRIBED = {
    "version": "1.2.3",
    "pid": 1,
    "app": "mine:app",
    "port": 3478,
    "listen": ["192.0.2.1", "2001:db8::1"],
    "http": "127.0.0.1:8080",
    "plane": "portable",
    "portable_because": "",
    "relays": 2,
    "transceivers": 1,
}


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where instances stand, and nobody else's."""
    folder = Path(tempfile.mkdtemp(prefix="vrtest-"))
    monkeypatch.setattr(module, "run_base", lambda: folder)
    monkeypatch.setattr(module, "default_run_dir", lambda port: folder / str(port))
    monkeypatch.delenv("VOICERELAY_RUN_DIR", raising=False)
    yield folder
    for run_dir in folder.iterdir():
        remove_segments(rundir.region_name(run_dir))
    shutil.rmtree(folder)


def running(base: Path, port: int) -> tuple[Path, rundir.InstanceLock]:
    """The lock of an instance, as its supervisor holds it."""
    run_dir = base / str(port)
    run_dir.mkdir()
    lock = rundir.InstanceLock(run_dir)
    assert lock.acquire()
    return run_dir, lock


@pytest.fixture
def instance(base: Path) -> Iterator[tuple[Path, Region]]:
    """An instance with a control, a relay and a transceiver, all of them this process."""
    run_dir, lock = running(base, 3478)
    (run_dir / rundir.INSTANCE_FILE).write_text(json.dumps(DESCRIBED))
    region = Region.create(rundir.region_name(run_dir), bytes(16), Sizes.for_capacity(MIN_CAPACITY))
    region.counters.control().claim()
    region.counters.relay(1).claim()
    region.counters.transceiver(0).claim(generation=7)
    yield run_dir, region
    lock.release()


def test_the_only_running_instance_is_meant(base: Path) -> None:
    run_dir, lock = running(base, 3478)
    (base / "3479").mkdir()  # a leftover

    assert find_run_dir(None, None) == run_dir
    assert find_run_dir(None, 3478) == run_dir
    assert find_run_dir(run_dir, None) == run_dir
    lock.release()


def test_of_several_instances_one_must_be_chosen(base: Path) -> None:
    one, first = running(base, 3478)
    _, second = running(base, 3479)

    with pytest.raises(UserError, match="--port: 3478, 3479"):
        find_run_dir(None, None)
    assert find_run_dir(None, 3478) == one
    first.release()
    second.release()


@pytest.mark.parametrize("hint", ["none", "port", "run_dir"])
def test_without_an_instance_nothing_is_found(base: Path, hint: str) -> None:
    # given the leftover of one that was killed
    leftover, lock = running(base, 3478)
    lock.release()

    with pytest.raises(NotRunning, match="no instance runs"):
        find_run_dir(leftover if hint == "run_dir" else None, 3478 if hint == "port" else None)


def test_looking_does_not_take_the_lock(base: Path) -> None:
    run_dir, lock = running(base, 3478)
    find_run_dir(run_dir, None)
    lock.release()

    assert lock.acquire()
    lock.release()


def test_figures_are_those_of_shared_memory(instance: tuple[Path, Region]) -> None:
    run_dir, region = instance
    region.counters.control().set(ControlCounter.ROUTES, 3)
    region.counters.control().set(ControlCounter.FLOWS, 4)
    region.counters.transceiver(0).set(TransceiverCounter.SESSIONS, 5)
    region.counters.relay(1).set(RelayCounter.DROPPED_QUEUE_FULL, 6)
    region.counters.transceiver(0).set(TransceiverCounter.DROPPED_QUEUE_FULL, 10)

    status = read_status(run_dir)

    assert (status["routes"], status["flows"], status["sessions"]) == (3, 4, 5)
    assert (status["version"], status["app"], status["capacity"]) == ("1.2.3", "mine:app", 16)
    assert status["sockets"] == 4  # of two relays on two addresses
    assert [relay["index"] for relay in status["relays"]] == [1]
    assert [(one["slot"], one["generation"]) for one in status["transceivers"]] == [(0, 7)]
    assert status["control"]["pid"] == os.getpid()
    assert status["dropped"]["queue_full"] == 16


def test_every_reason_to_drop_is_told(instance: tuple[Path, Region]) -> None:
    status = read_status(instance[0])

    reasons = {
        name.removeprefix("DROPPED_").lower()
        for names in (RelayCounter, TransceiverCounter)
        for name in names.__members__
        if name.startswith("DROPPED_")
    }
    assert set(status["dropped"]) == reasons


@pytest.mark.parametrize("broken", ["no file", "no json", "no region"])
def test_an_instance_that_cannot_be_read_is_said(
    instance: tuple[Path, Region], broken: str
) -> None:
    run_dir, _ = instance
    match broken:
        case "no file":
            (run_dir / rundir.INSTANCE_FILE).unlink()
        case "no json":
            (run_dir / rundir.INSTANCE_FILE).write_text("{")
        case _:
            remove_segments(rundir.region_name(run_dir))

    with pytest.raises(NotRunning, match="cannot be read"):
        read_status(run_dir)


def test_a_person_sees_every_process(instance: tuple[Path, Region]) -> None:
    # given a relay whose heart has not beaten for long, and something dropped
    run_dir, region = instance
    relay = region.counters.relay(1)
    relay.words[HEARTBEAT_NS] -= (HEARTBEAT_OLD_MS + 1000) * 1_000_000
    relay.set(RelayCounter.DROPPED_UNKNOWN_FLOW, 9)

    lines = render(read_status(run_dir)).splitlines()

    rows = {line.split("  ")[0]: line for line in lines if line}
    assert "192.0.2.1:3478/udp" in lines[1]
    assert "ms! " in rows["relay 1"]
    assert "ms! " not in rows["control"]
    assert "transceiver 0" in rows
    assert lines[-1] == "dropped: unknown_flow 9"


@pytest.mark.parametrize(
    ("described", "line"),
    [
        ({"portable_because": "no CAP_BPF"}, "plane: portable no CAP_BPF"),
        ({"plane": "steering"}, "plane: steering"),
        (
            {"plane": "steering", "unpinned_because": "no bpffs"},
            "plane: steering, not pinned: no bpffs",
        ),
    ],
)
def test_the_plane_and_what_is_missing_are_shown(
    instance: tuple[Path, Region], described: dict[str, str], line: str
) -> None:
    run_dir, _ = instance
    (run_dir / rundir.INSTANCE_FILE).write_text(json.dumps(DESCRIBED | described))

    assert line in render(read_status(run_dir)).splitlines()


def test_the_size_of_the_receive_buffers_is_shown(instance: tuple[Path, Region]) -> None:
    run_dir, _ = instance
    (run_dir / rundir.INSTANCE_FILE).write_text(
        json.dumps(DESCRIBED | {"receive_buffer_bytes": 212_992})
    )

    status = read_status(run_dir)

    assert status["receive_buffer_bytes"] == 212_992
    assert "receive buffers 208 KiB" in render(status)


def test_nothing_dropped_is_said(instance: tuple[Path, Region]) -> None:
    assert render(read_status(instance[0])).splitlines()[-1] == "dropped: nothing"


def test_programs_get_json(instance: tuple[Path, Region]) -> None:
    result = CliRunner().invoke(main, ["status", "--json"])

    found: dict[str, Any] = json.loads(result.stdout)
    assert result.exit_code == 0
    assert found["run_dir"] == str(instance[0])


def test_age_and_versions_are_shown(instance: tuple[Path, Region]) -> None:
    run_dir, _ = instance
    (run_dir / rundir.INSTANCE_FILE).write_text(json.dumps(DESCRIBED | {"pid": os.getpid()}))

    status = read_status(run_dir)

    assert status["uptime_s"] > 0
    assert f"up {duration(status['uptime_s'])}" in render(status)
    assert f"(this command is of {__version__})" in render(status)
    assert "this command" not in render(status | {"tool_version": "1.2.3"})


def test_the_age_of_a_process_that_is_gone_is_not_known(instance: tuple[Path, Region]) -> None:
    run_dir, _ = instance
    (run_dir / rundir.INSTANCE_FILE).write_text(json.dumps(DESCRIBED | {"pid": 1 << 30}))

    status = read_status(run_dir)

    assert status["uptime_s"] is None
    assert " up " not in render(status).splitlines()[0]


def test_a_reader_follows_the_instance_to_other_tables(instance: tuple[Path, Region]) -> None:
    run_dir, region = instance
    reader = StatusReader(run_dir)
    assert len(reader.read()["relays"]) == 1

    # when control makes the tables anew
    region.close()
    sizes = Sizes.for_capacity(MIN_CAPACITY)
    fresh = Region.create(rundir.region_name(run_dir), bytes(16), sizes)

    assert reader.read()["relays"] == []
    fresh.close()

    # and when the instance goes away
    remove_segments(rundir.region_name(run_dir))
    with pytest.raises(NotRunning):
        reader.read()
    reader.close()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (187, "3m07s"), (18_120, "5h02m"), (1_051_200, "12d04h")],
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text
