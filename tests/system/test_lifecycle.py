"""Start, stop, kill, start again: every run cleans up, also what a killed one left behind."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support.server import Server, free_port, server
from voicerelay.cli.status import read_status
from voicerelay.shm import rundir

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


def leftovers(run_dir: Path) -> list[str]:
    segments = [p.name for p in Path("/dev/shm").glob(f"{rundir.region_name(run_dir)}*")]
    return segments + [p.name for p in run_dir.glob("*")]


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_two_runs_after_each_other_leave_nothing() -> None:
    for _ in range(2):
        with server() as running:
            pids = pids_of(running)
            run_dir = running.run_dir

            assert running.stop() == 0

            assert leftovers(run_dir) == []
            assert [pid for pid in pids if not gone(pid)] == []
            assert "Traceback" not in running.output


def test_ctrl_c_stops_cleanly() -> None:
    with server() as running:
        pids = pids_of(running)

        os.kill(running.pid, signal.SIGINT)
        wait_for(lambda: all(gone(pid) for pid in pids), "every process to end")

        assert leftovers(running.run_dir) == []
        assert "voicerelay has stopped" in running.output


def test_a_killed_supervisor_takes_its_children_along_and_leaves_nothing() -> None:
    with server() as running:
        pids = pids_of(running)

        os.kill(running.pid, signal.SIGKILL)
        wait_for(lambda: all(gone(pid) for pid in pids), "every process to end", 3.0)

        deadline = time.monotonic() + PATIENCE_S
        while left := leftovers(running.run_dir):
            assert time.monotonic() < deadline, left
            time.sleep(0.01)


def test_after_kill_9_of_everything_the_next_start_replaces_what_is_left() -> None:
    with server() as first:
        pids = pids_of(first)
        # Control first: it would clean up after its supervisor.
        for pid in sorted(pids, key=lambda pid: pid != pids[-1]):
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: all(gone(pid) for pid in pids), "every process to end")
        assert leftovers(first.run_dir) != []

        second = start_and_stop(first)

        assert "removed what an earlier run had left behind" in second
        assert leftovers(first.run_dir) == []


def start_command(run_dir: Path, port: int, http_url: str) -> list[str]:
    command = [sys.executable, "-P", "-m", "voicerelay", "start", "--listen", "127.0.0.1"]
    http = http_url.removeprefix("http://")
    return [*command, "--port", str(port), "--http", http, "--run-dir", str(run_dir)]


def start_and_stop(first: Server) -> str:
    """Start on the same port and directory, stop when ready; returns what it wrote."""
    process = subprocess.Popen(
        start_command(first.run_dir, first.port, first.http_url),
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
