"""Start, stop, kill, start again: every run cleans up, also what a killed one left behind."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from tests.support import bpffs
from tests.support.server import Server, free_port, server
from voicerelay.cli.status import read_status
from voicerelay.shm import rundir
from voicerelay.shm.bpf import BPFFS

pytestmark = pytest.mark.system

PATIENCE_S = 10.0


def wait_for(condition: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {patience_s} s for {what}"
        time.sleep(0.01)


def pids_of(running: Server) -> list[int]:
    status = read_status(running.run_dir)
    processes = [*status["relays"], *status["transceivers"], status["control"]]
    return [status["pid"], *(process["pid"] for process in processes)]


class Place(NamedTuple):
    """Where a server runs: `prefix` and `options` of its command, `pins`: the bpffs that it sees."""

    prefix: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    pins: Path = BPFFS


@pytest.fixture(scope="module")
def place(plane: str, plane_options: list[str]) -> Iterator[Place]:
    """For each plane; steering with pins, where bpffs can be mounted for it alone."""
    if plane == "portable" or bpffs.obstacle():
        yield Place(options=tuple(plane_options))
        return
    with bpffs.mounted() as mounted:
        yield Place(mounted.prefix, tuple(plane_options), mounted.path)


def leftovers(run_dir: Path, pins: Path = BPFFS) -> list[str]:
    name = rundir.region_name(run_dir)
    found = [*Path("/dev/shm").glob(f"{name}*"), *pins.glob(name), *run_dir.glob("*")]
    return [path.name for path in found]


def pinned(running: Server, place: Place) -> list[str]:
    """Names of the pins of a server's first listen address, when it has any."""
    directory = place.pins / rundir.region_name(running.run_dir) / "0"
    return sorted(path.name for path in directory.glob("*"))


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_two_runs_after_each_other_leave_nothing(place: Place) -> None:
    for _ in range(2):
        with server(prefix=place.prefix, extra=place.options) as running:
            pids = pids_of(running)
            run_dir = running.run_dir
            assert len(pinned(running, place)) == (7 if place.prefix else 0)

            assert running.stop() == 0

            assert leftovers(run_dir, place.pins) == []
            assert [pid for pid in pids if not gone(pid)] == []
            assert "Traceback" not in running.output


def test_ctrl_c_stops_cleanly() -> None:
    with server() as running:
        pids = pids_of(running)

        os.kill(running.pid, signal.SIGINT)
        wait_for(lambda: all(gone(pid) for pid in pids), "every process to end")

        assert leftovers(running.run_dir) == []
        assert "voicerelay has stopped" in running.output


def test_a_killed_supervisor_takes_its_children_along_and_leaves_nothing(place: Place) -> None:
    with server(prefix=place.prefix, extra=place.options) as running:
        pids = pids_of(running)

        os.kill(running.pid, signal.SIGKILL)
        wait_for(lambda: all(gone(pid) for pid in pids), "every process to end", 3.0)

        deadline = time.monotonic() + PATIENCE_S
        while left := leftovers(running.run_dir, place.pins):
            assert time.monotonic() < deadline, left
            time.sleep(0.01)


def test_after_kill_9_of_everything_the_next_start_replaces_what_is_left(place: Place) -> None:
    with server(prefix=place.prefix, extra=place.options) as first:
        pids = pids_of(first)
        # Control first: it would clean up after its supervisor.
        for pid in sorted(pids, key=lambda pid: pid != pids[-1]):
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: all(gone(pid) for pid in pids), "every process to end")
        assert leftovers(first.run_dir, place.pins) != []
        left = pinned(first, place)

        second = start_and_stop(first, place)

        assert len(left) == (7 if place.prefix else 0)
        assert "removed what an earlier run had left behind" in second
        assert "not pinned" not in second or not place.prefix
        assert leftovers(first.run_dir, place.pins) == []


def start_command(run_dir: Path, port: int, http_url: str) -> list[str]:
    command = [sys.executable, "-P", "-m", "voicerelay", "start", "--listen", "127.0.0.1"]
    http = http_url.removeprefix("http://")
    return [*command, "--port", str(port), "--http", http, "--run-dir", str(run_dir)]


def start_and_stop(first: Server, place: Place) -> str:
    """Start on the same port and directory, stop when ready; returns what it wrote."""
    command = start_command(first.run_dir, first.port, first.http_url)
    process = subprocess.Popen(
        [*place.prefix, *command, *place.options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    lines = []
    with process.stdout as output:
        for line in output:
            lines.append(line)
            if line.startswith("voicerelay is ready"):
                process.terminate()
    assert process.wait(PATIENCE_S) == 0, "".join(lines)
    return "".join(lines)


def refused(*arguments: str) -> str:
    """Run `start` with arguments that cannot work; returns its error line."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "voicerelay", "start", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("voicerelay: error")]
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return errors[0]


def test_a_second_instance_is_refused_and_the_first_unharmed() -> None:
    with server() as running:
        command = start_command(running.run_dir, running.port, running.http_url)[5:]

        assert "runs already" in refused(*command)

        with tempfile.TemporaryDirectory() as other:
            command[-1] = other
            assert "in use" in refused(*command)
            assert leftovers(Path(other)) == []
        assert len(pids_of(running)) == 6
        assert all(not gone(pid) for pid in pids_of(running))


def test_an_app_that_cannot_be_imported_is_one_line_and_exit_2() -> None:
    with tempfile.TemporaryDirectory() as run_dir:
        arguments = ["no.such.module:app", "--listen", "127.0.0.1", "--run-dir", run_dir]
        arguments += [
            "--port",
            str(free_port(socket.SOCK_DGRAM)),
            "--http",
            f"127.0.0.1:{free_port(socket.SOCK_STREAM)}",
        ]

        assert 'there is no module "no.such.module"' in refused(*arguments)

        assert leftovers(Path(run_dir)) == []
