"""The run directory: one lock, known files, and nothing left behind."""

import os
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from voicerelay.shm import rundir
from voicerelay.shm.region import MIN_CAPACITY, Region, Sizes, remove_segments
from voicerelay.shm.rundir import InstanceLock

HOLDER = """
import sys
from pathlib import Path
from voicerelay.shm.rundir import InstanceLock
lock = InstanceLock(Path(sys.argv[1]))
print(lock.acquire(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A run directory as a supervisor makes it, below a base of its own."""
    base = Path(tempfile.mkdtemp(prefix="vrtest-"))
    chosen = base / "voicerelay" / "3478"
    chosen.mkdir(parents=True, mode=rundir.DIRECTORY_MODE)
    yield chosen
    remove_segments(rundir.region_name(chosen))
    shutil.rmtree(base)


def segments(run_dir: Path) -> list[Path]:
    return list(Path("/dev/shm").glob(f"{rundir.region_name(run_dir)}.*"))


def fill(run_dir: Path) -> None:
    """What an instance that was killed leaves."""
    Region.create(rundir.region_name(run_dir), bytes(16), Sizes.for_capacity(MIN_CAPACITY)).close()
    for path in (
        rundir.control_socket(run_dir),
        rundir.frames_socket(run_dir, 0, 1),
        rundir.http_socket(run_dir, 0),
        run_dir / rundir.INSTANCE_FILE,
    ):
        path.touch()


def test_a_lock_has_one_holder(run_dir: Path) -> None:
    first, second = InstanceLock(run_dir), InstanceLock(run_dir)

    taken, taken_again = first.acquire(), second.acquire()

    assert (taken, taken_again) == (True, False)
    assert second.holder() == str(os.getpid())
    first.release()


def test_a_released_lock_may_be_taken(run_dir: Path) -> None:
    first, second = InstanceLock(run_dir), InstanceLock(run_dir)
    first.acquire()

    first.release()
    first.release()

    assert second.acquire()
    second.release()


def test_a_killed_holder_lets_go(run_dir: Path) -> None:
    # given a process that holds the lock
    lock = InstanceLock(run_dir)
    command = [sys.executable, "-P", "-c", HOLDER, str(run_dir)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "True"
        while_it_lives = lock.acquire()
        told = lock.holder()

        holder.send_signal(signal.SIGKILL)
        holder.wait()

        assert not while_it_lives
        assert told == str(holder.pid)
    assert lock.acquire()
    lock.release()


def test_a_lock_is_not_inherited(run_dir: Path) -> None:
    lock = InstanceLock(run_dir)
    lock.acquire()

    assert not os.get_inheritable(lock._fd)

    lock.release()


def test_a_held_lock_is_handed_on_by_its_descriptor(run_dir: Path) -> None:
    first, second, third = (InstanceLock(run_dir) for _ in range(3))
    first.acquire()

    taken = second.inherit(os.dup(first.fileno()))
    first.release()

    assert (taken, third.acquire(), third.holder()) == (True, False, str(os.getpid()))
    second.release()


def test_a_descriptor_of_a_lock_that_is_no_more_is_closed(run_dir: Path) -> None:
    first, second = InstanceLock(run_dir), InstanceLock(run_dir)
    first.acquire()
    copy = os.dup(first.fileno())
    (run_dir / "lock").unlink()

    assert not second.inherit(copy)

    with pytest.raises(OSError, match="Bad file"):
        os.fstat(copy)
    first.release()


def test_a_lock_whose_file_was_removed_is_another_one(run_dir: Path) -> None:
    # given a holder that removed the file, as the last thing it did
    first, second, third = (InstanceLock(run_dir) for _ in range(3))
    first.acquire()
    (run_dir / "lock").unlink()

    taken, taken_again = second.acquire(), third.acquire()

    assert (taken, taken_again) == (True, False)
    first.release()
    second.release()


def test_the_holder_of_no_lock_is_unknown(run_dir: Path) -> None:
    assert InstanceLock(run_dir).holder() == "unknown"


def test_leftovers_are_removed_and_nothing_else(run_dir: Path) -> None:
    # given leftovers beside a file of somebody else
    fill(run_dir)
    (run_dir / "notes.txt").touch()

    removed, again = rundir.clean(run_dir), rundir.clean(run_dir)

    assert (removed, again) == (True, False)
    assert segments(run_dir) == []
    assert {path.name for path in run_dir.iterdir()} == {rundir.INSTANCE_FILE, "notes.txt"}


def test_pins_are_leftovers_like_all_else(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given what this and another instance pinned
    monkeypatch.setattr(rundir, "BPFFS", tmp_path)
    for directory in (rundir.pins(run_dir), rundir.pins(run_dir.parent)):
        (directory / "0").mkdir(parents=True)
        (directory / "0" / "flows").touch()

    removed, again = rundir.clean(run_dir), rundir.clean(run_dir)

    assert (removed, again) == (True, False)
    assert list(tmp_path.iterdir()) == [rundir.pins(run_dir.parent)]


def test_a_link_in_place_of_the_pins_is_not_followed(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "precious").mkdir()
    monkeypatch.setattr(rundir, "BPFFS", tmp_path)
    rundir.pins(run_dir).symlink_to(tmp_path / "precious")

    assert not rundir.clean(run_dir)

    assert (tmp_path / "precious").exists()


def test_a_removed_run_directory_leaves_nothing(run_dir: Path) -> None:
    fill(run_dir)
    lock = InstanceLock(run_dir)
    lock.acquire()

    rundir.remove(run_dir)
    lock.release()

    assert not run_dir.parent.exists()
    assert segments(run_dir) == []


def test_the_base_stays_while_another_instance_uses_it(run_dir: Path) -> None:
    other = run_dir.parent / "3479"
    other.mkdir()
    InstanceLock(run_dir).acquire()

    rundir.remove(run_dir)

    assert not run_dir.exists()
    assert other.exists()


def test_a_directory_with_files_of_others_stays(run_dir: Path) -> None:
    fill(run_dir)
    (run_dir / "notes.txt").touch()
    (run_dir / "lock").touch()

    rundir.remove(run_dir)

    assert [path.name for path in run_dir.iterdir()] == ["notes.txt"]


def test_a_parent_of_another_name_stays(tmp_path: Path) -> None:
    chosen = tmp_path / "mine" / "run"
    chosen.mkdir(parents=True)
    (chosen / "lock").touch()

    rundir.remove(chosen)

    assert (tmp_path / "mine").exists()
    assert not chosen.exists()


def test_every_file_has_a_name_of_its_own(run_dir: Path) -> None:
    names = [
        rundir.control_socket(run_dir),
        rundir.http_socket(run_dir, 1),
        rundir.http_socket(run_dir, 2),
        rundir.frames_socket(run_dir, 1, 1),
        rundir.frames_socket(run_dir, 1, 2),
        rundir.frames_socket(run_dir, 2, 1),
    ]

    assert len(set(names)) == len(names)
    assert {path.parent for path in names} == {run_dir}


def test_one_directory_has_one_region_by_whatever_path(run_dir: Path) -> None:
    link = run_dir.parent / f"link-{secrets.token_hex(4)}"
    link.symlink_to(run_dir)

    assert rundir.region_name(link) == rundir.region_name(run_dir)
    assert rundir.region_name(run_dir) != rundir.region_name(run_dir.parent)


def test_others_may_not_enter_nor_call() -> None:
    assert stat.S_IRWXO & (rundir.DIRECTORY_MODE | rundir.SOCKET_MODE) == 0
