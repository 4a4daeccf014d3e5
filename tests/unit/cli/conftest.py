"""A configuration that an instance could be started with: free ports, a run directory of its own."""

import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from voicerelay.cli import network
from voicerelay.cli.config import Config
from voicerelay.shm import rundir
from voicerelay.shm.region import MIN_CAPACITY, remove_segments


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> Iterator[Config]:
    monkeypatch.setattr(network, "PORT_WAIT_S", 0.0)
    base = Path(tempfile.mkdtemp(prefix="vrtest-"))
    run_dir = base / "voicerelay" / "run"
    yield Config(
        app="mine:app",
        port=free_port(socket.SOCK_DGRAM),
        listen=("127.0.0.1", "::1"),
        public_ip=("192.0.2.1",),
        http_host="127.0.0.1",
        http_port=free_port(socket.SOCK_STREAM),
        relays=2,
        transceivers=3,
        max_sessions=7,
        capacity=MIN_CAPACITY,
        run_dir=run_dir,
        log_level="warning",
        steering="off",
    )
    remove_segments(rundir.region_name(run_dir))
    shutil.rmtree(base)
