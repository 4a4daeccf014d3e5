"""What `voicerelay init` writes starts as it is, and `voicerelay dev` starts it again when it changes."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.server import READY, READY_TIMEOUT_S, free_port

pytestmark = pytest.mark.system
VOICERELAY = (sys.executable, "-P", "-m", "voicerelay")
STOP_TIMEOUT_S = 30
PATIENCE_S = 3 * READY_TIMEOUT_S


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """What `init` has written."""
    made = Path(tempfile.mkdtemp(prefix="vrtest-"))
    subprocess.run([*VOICERELAY, "init", str(made)], check=True, timeout=PATIENCE_S)
    yield made
    shutil.rmtree(made)


class Running:
    """A command whose lines can be waited for."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, text: str, times: int = 1) -> None:
        def told() -> bool:
            return sum(text in line for line in self.lines) >= times

        with self._news:
            assert self._news.wait_for(told, PATIENCE_S), "".join(self.lines)

    def stop(self) -> int:
        self.process.terminate()
        code = self.process.wait(STOP_TIMEOUT_S)
        self._reader.join(STOP_TIMEOUT_S)
        return code

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                with self._news:
                    self.lines.append(line)
                    self._news.notify_all()


@contextlib.contextmanager
def running(directory: Path, *arguments: str, **env: str) -> Iterator[Running]:
    process = subprocess.Popen(
        [*VOICERELAY, *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    started = Running(process)
    try:
        yield started
    finally:
        started.stop()


def children_of(pid: int) -> Sequence[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_what_init_writes_starts(directory: Path) -> None:
    check = subprocess.run(
        [*VOICERELAY, "check-config"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (check.stdout, check.returncode) == ("ok (voicerelay.toml)\n", 0)

    with running(
        directory,
        "start",
        VOICERELAY_PORT=str(free_port(socket.SOCK_DGRAM)),
        VOICERELAY_HTTP=f"127.0.0.1:{free_port(socket.SOCK_STREAM)}",
        VOICERELAY_LISTEN="127.0.0.1",
        VOICERELAY_RELAYS="1",
        VOICERELAY_TRANSCEIVERS="1",
        VOICERELAY_RUN_DIR=str(directory / "run"),
    ) as started:
        started.wait_for("stop    Ctrl-C")
        assert started.stop() == 0

    assert any("agent   agent:app" in line for line in started.lines)


def test_dev_starts_again_when_the_agent_changes(directory: Path) -> None:
    ports = ["--port", str(free_port(socket.SOCK_DGRAM))]
    ports += ["--http-port", str(free_port(socket.SOCK_STREAM))]
    with running(directory, "dev", *ports) as started:
        started.wait_for(READY)
        agent = directory / "agent.py"

        # when the agent changes
        with agent.open("a") as file:
            file.write("# changed\n")

        # then it serves again, and its end is the end of all
        started.wait_for(READY, times=2)
        (server,) = children_of(started.process.pid)
        assert started.stop() == 0
        assert not Path(f"/proc/{server}").exists()

    assert any("voicerelay dev: agent.py changed" in line for line in started.lines)
