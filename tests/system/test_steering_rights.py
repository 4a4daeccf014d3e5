"""Kernel steering without all that it needs: `auto` says what is missing, `on` refuses, CAP_BPF is enough."""

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from itertools import chain
from pathlib import Path

import aiohttp
import pytest

from tests.support.callers import calls_work
from tests.support.server import free_port, server
from tests.system.conftest import steering_unavailable
from voicerelay.cli.status import read_status, render
from voicerelay.shm.bpf import BPFFS

pytestmark = pytest.mark.system

ON = ("--steering", "on")
ROOMS = ("cli", "control", "relay", "shm", "transceiver")
NOBODY = ("--reuid=nobody", "--regid=nogroup", "--clear-groups", "--pdeathsig=KILL")
WITHOUT_RIGHTS = ("setpriv", *NOBODY, "--bounding-set=-all")
CAP_BPF = ("--bounding-set=-all,+bpf", "--inh-caps=+bpf", "--ambient-caps=+bpf")
WITH_CAP_BPF = ("setpriv", *NOBODY, *CAP_BPF)
LOAD = "from voicerelay.relay import steering; steering.BpfObject(steering.OBJECT).load()"
IMPORT = "import os, sys, voicerelay, aiortc; os.execv(sys.executable, ['python', '-c', ''])"


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A home of nobody's, with a `bin/python` that nobody can run and that has voicerelay."""
    if reason := steering_unavailable():
        pytest.skip(f"kernel steering: {reason}")  # then another reason would be named
    if os.geteuid() or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv to become nobody")
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    with tempfile.TemporaryDirectory(prefix="voicerelay-nobody-") as name:
        folder, python = Path(name), Path(name, "bin", "python")
        site = folder / "lib" / version / "site-packages"
        for directory in (site, python.parent):
            directory.mkdir(parents=True)
        ours = str(Path(aiohttp.__file__).parents[1])
        (site / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
        os.chown(folder, pwd.getpwnam("nobody").pw_uid, -1)
        for base in (Path(sys.executable).resolve(), Path("/usr/bin", version)):
            python.unlink(missing_ok=True)
            python.symlink_to(base)
            (folder / "pyvenv.cfg").write_text(f"home = {base.parent}\n")
            probe = *WITHOUT_RIGHTS, str(python), "-c", IMPORT
            if not subprocess.run(probe, capture_output=True, check=False, timeout=60).returncode:
                yield folder
                return
    pytest.skip("nobody can run no Python that has voicerelay")


def test_without_the_right_it_runs_portable_and_says_why_once(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(home / "bin" / "python"))
    extra = ["--run-dir", str(home / "run")]

    with server(prefix=WITHOUT_RIGHTS, extra=extra, env={"HOME": str(home)}) as started:
        asyncio.run(calls_work(started.http_url))
        status = read_status(home / "run")

    (line,) = (line for line in started.output.splitlines() if "steering" in line)
    assert "CAP_BPF" in status["portable_because"]
    assert line == f"kernel steering is off: {status['portable_because']}"
    assert f"plane: portable {status['portable_because']}" in render(status).splitlines()
    assert "plane   portable" in started.output


@pytest.fixture
def built_without_clang(tmp_path: Path) -> Path:
    """A folder like site-packages with voicerelay as it installs where clang is not."""
    names = ["voicerelay", *(f"voicerelay.{room}" for room in ROOMS)]
    for name in names:
        (source,) = import_module(name).__path__
        ignored = shutil.ignore_patterns("*.bpf.o", "__pycache__")
        shutil.copytree(source, tmp_path.joinpath(*name.split(".")), ignore=ignored)
    return tmp_path


def test_without_the_program_it_runs_portable_and_says_why_once(built_without_clang: Path) -> None:
    with server(env={"PYTHONPATH": str(built_without_clang)}) as started:
        asyncio.run(calls_work(started.http_url))
        status = read_status(started.run_dir)

    (line,) = (line for line in started.output.splitlines() if "steering" in line)
    assert line == f"kernel steering is off: {status['portable_because']}"
    assert "install clang and libbpf-dev" in line


def test_on_without_the_right_is_one_line_and_exit_2(home: Path) -> None:
    command = [*WITHOUT_RIGHTS, str(home / "bin" / "python"), "-P", "-m", "voicerelay", "start"]
    options = {
        "--port": str(free_port(socket.SOCK_DGRAM)),
        "--http": f"127.0.0.1:{free_port(socket.SOCK_STREAM)}",
        "--run-dir": str(home / "run"),
    }

    done = subprocess.run(
        [*command, *ON, "--listen", "127.0.0.1", *chain(*options.items())],
        env=os.environ | {"HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )

    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("voicerelay: error: --steering on: ")
    assert "CAP_BPF" in line
    assert not (home / "run").exists()


def test_cap_bpf_alone_is_enough(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = str(home / "bin" / "python")
    probe = *WITH_CAP_BPF, python, "-c", LOAD
    loaded = subprocess.run(probe, capture_output=True, text=True, check=False, timeout=30)
    if loaded.returncode:
        pytest.skip(f"kernel steering as nobody: {loaded.stderr.splitlines()[-1]}")
    monkeypatch.setattr(sys, "executable", python)
    extra = (*ON, "--run-dir", str(home / "run"))

    with server(prefix=WITH_CAP_BPF, extra=extra, env={"HOME": str(home)}) as started:
        asyncio.run(calls_work(started.http_url))
        status = read_status(home / "run")
        assert started.stop() == 0

    assert status["plane"] == "steering"
    # Where bpffs is mounted at all, it is root's: the supervisor's descriptors serve.
    reason = status["unpinned_because"]
    assert str(BPFFS) in reason
    assert f"plane: steering, not pinned: {reason}" in render(status).splitlines()
    assert started.output.count(f"kernel steering is not pinned: {reason}") == 1
    assert sum(one["packets_received"] for one in status["transceivers"]) > 4 * 25
    assert sum(one["frames_received"] for one in status["transceivers"]) == 0
