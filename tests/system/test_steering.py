"""Kernel steering with real processes: calls without a relay, deaths, a clean end, missing rights."""

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.support.callers import callers, heard_all, talk_all
from tests.support.client import Call
from tests.support.server import Server, free_port, server
from tests.system.conftest import steering_unavailable
from voicerelay.cli.status import read_status, render

pytestmark = pytest.mark.system

CALLS = 10
PACKETS_A_SECOND = 50
PATIENCE_S = 15.0
BPFFS = Path("/sys/fs/bpf")
ON = ("--steering", "on")
NOBODY = ("--reuid=nobody", "--regid=nogroup", "--clear-groups", "--pdeathsig=KILL")
WITHOUT_RIGHTS = ("setpriv", *NOBODY, "--bounding-set=-all")
CAP_BPF = ("--bounding-set=-all,+bpf", "--inh-caps=+bpf", "--ambient-caps=+bpf")
WITH_CAP_BPF = ("setpriv", *NOBODY, *CAP_BPF)
LOAD = "from voicerelay.relay import steering; steering.BpfObject(steering.OBJECT).load()"
IMPORT = "import os, sys, voicerelay, aiortc; os.execv(sys.executable, ['python', '-c', ''])"


@pytest.fixture(scope="module", autouse=True)
def _kernel_steers() -> None:
    if reason := steering_unavailable():
        pytest.skip(f"kernel steering: {reason}")


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with server(relays=2, transceivers=2, extra=ON) as started:
        yield started


async def wait_for(condition: Callable[[], Any], what: str) -> None:
    """Poll a cheap condition; fail with `what` when it does not come true."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s for {what}"
        await asyncio.sleep(0.02)


def relayed(run_dir: Path) -> int:
    """Packets that the relays which are now here have seen."""
    return sum(relay["packets_received"] for relay in read_status(run_dir)["relays"])


def kernel(running: Server, figure: str) -> int:
    """A figure of the program, which control copies once a second."""
    return int(read_status(running.run_dir)["control"][f"steered_{figure}"])


def transceiver_1(running: Server) -> int:
    """Its pid once it takes calls, else 0."""
    found = read_status(running.run_dir)["transceivers"]
    pid = next((one["pid"] for one in found if one["slot"] == 1), 0)
    with contextlib.suppress(psutil.NoSuchProcess):
        for connection in psutil.Process(pid).net_connections("tcp") if pid else ():
            if connection.status == psutil.CONN_LISTEN:
                return int(pid)
    return 0


async def owner(http: aiohttp.ClientSession, running: Server, call: Call) -> int:
    """Slot of the transceiver that a call lives on."""
    url = running.http_url + call.resource.replace("/whip/", "/sessions/")
    async with http.get(url) as response:
        return int((await response.json())["transceiver"])


def all_are_back(running: Server, killed: set[int]) -> bool:
    status = read_status(running.run_dir)
    if status["control"] is None:  # it is just starting
        return False
    here = {process["pid"] for process in (status["control"], *status["relays"])}
    reading = [relay["sockets_read"] for relay in status["relays"]]
    return not killed & here and reading == [1, 1] and status["control"]["peers"] == 4


async def talk_while_killed(running: Server, calls: Sequence[Call], pids: Sequence[int]) -> None:
    """Everybody talks for 2 s; in the midst of it processes are killed at once."""
    talk = asyncio.ensure_future(talk_all(calls, 2.0))
    await wait_for(lambda: all(len(c.received) > 20 for c in calls), "every call to be heard")
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    await talk
    await wait_for(lambda: all_are_back(running, set(pids)), "new processes")


async def nothing_was_lost(calls: Sequence[Call]) -> bool:
    await asyncio.gather(*(heard_all(call, 0) for call in calls))
    return all(call.numbers() == list(range(call.sent)) for call in calls)


def test_relays_see_nothing_of_established_calls(running: Server) -> None:
    async def scenario() -> None:
        # given calls that are set up
        async with callers(running.http_url, CALLS) as (calls, _):
            await talk_all(calls, 0.2)
            before, steered = relayed(running.run_dir), kernel(running, "by_flow")

            await talk_all(calls, 2.0)

            assert await nothing_was_lost(calls)
            steered += CALLS * 2 * PACKETS_A_SECOND
            await wait_for(lambda: kernel(running, "by_flow") >= steered, "the kernel's counters")
            assert relayed(running.run_dir) == before
            assert kernel(running, "by_ufrag") >= CALLS
            assert kernel(running, "dropped_no_relay") == 0

    asyncio.run(scenario())


def test_status_says_that_the_kernel_steers(running: Server) -> None:
    status = read_status(running.run_dir)

    assert (status["plane"], status["portable_because"]) == ("steering", "")
    assert any(line.startswith("plane: steering") for line in render(status).splitlines())


@pytest.mark.parametrize("control", [False, True], ids=["relays", "relays and control"])
def test_the_death_of_all_that_routes_costs_no_packet(running: Server, control: bool) -> None:
    async def scenario() -> None:
        async with callers(running.http_url, CALLS) as (calls, _):
            status = read_status(running.run_dir)
            dying = [*status["relays"], *([status["control"]] if control else [])]

            await talk_while_killed(running, calls, [process["pid"] for process in dying])

            assert await nothing_was_lost(calls)
            async with callers(running.http_url, 2) as (fresh, _):
                await talk_all([*calls, *fresh], 0.5)
                assert await nothing_was_lost([*calls, *fresh])

    asyncio.run(scenario())


def test_a_transceivers_death_ends_exactly_its_calls_and_its_successor_hears_its_own(
    running: Server,
) -> None:
    def strays() -> int:
        return int(read_status(running.run_dir)["dropped"]["unknown_flow"])

    async def scenario() -> None:
        # given calls on both transceivers
        async with callers(running.http_url, CALLS) as (calls, http):
            owners = [await owner(http, running, call) for call in calls]
            doomed = [call for call, slot in zip(calls, owners, strict=True) if slot == 1]
            others = [call for call in calls if call not in doomed]
            assert set(owners) == {0, 1}
            pid = transceiver_1(running)

            # when one of them dies and its successor comes
            os.kill(pid, signal.SIGKILL)
            await wait_for(lambda: transceiver_1(running) not in (0, pid), "the successor")
            heard, counted = [len(call.received) for call in doomed], strays()
            async with callers(running.http_url, 6) as (fresh, _):
                assert 1 in [await owner(http, running, call) for call in fresh]
                await talk_all([*calls, *fresh], 1.0)

                # then all others go on and hear their own, and nothing else
                assert await nothing_was_lost([*others, *fresh])
                assert [len(call.received) for call in doomed] == heard
                # and what is for the dead comes to the relays, which count it
                counted += len(doomed) * PACKETS_A_SECOND
                await wait_for(lambda: strays() >= counted, "the strays")

    asyncio.run(scenario())


async def calls_work(running: Server) -> None:
    async with callers(running.http_url, 4) as (calls, _):
        await talk_all(calls, 0.5)
        assert await nothing_was_lost(calls)


def test_a_clean_stop_leaves_nothing_in_the_kernel() -> None:
    # given a steered run that has had its calls
    before = [*BPFFS.rglob("*")]
    with server(extra=ON) as first:
        asyncio.run(calls_work(first))
        assert first.stop() == 0
    assert [*BPFFS.rglob("*")] == before

    # when another starts on its port without steering
    with server(extra=["--steering", "off", "--port", str(first.port)]) as second:
        asyncio.run(calls_work(second))

        # then its relays see every packet
        status = read_status(second.run_dir)
        assert (status["plane"], status["port"]) == ("portable", first.port)
        assert relayed(second.run_dir) >= 4 * 0.5 * PACKETS_A_SECOND
        assert status["control"]["steered_by_flow"] == 0


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A home of nobody's, with a `bin/python` that nobody can run and that has voicerelay."""
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


def test_auto_without_the_right_runs_portable_and_says_why_once(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(home / "bin" / "python"))
    extra = ["--steering", "auto", "--run-dir", str(home / "run")]

    with server(prefix=WITHOUT_RIGHTS, extra=extra, env={"HOME": str(home)}) as started:
        asyncio.run(calls_work(started))
        status = read_status(home / "run")

    (line,) = (line for line in started.output.splitlines() if "steering" in line)
    assert "CAP_BPF" in status["portable_because"]
    assert line == f"kernel steering is off: {status['portable_because']}"
    assert f"plane: portable {status['portable_because']}" in render(status).splitlines()
    assert "plane   portable" in started.output


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
        asyncio.run(calls_work(started))
        status = read_status(home / "run")
        assert started.stop() == 0

    assert status["plane"] == "steering"
    # Where bpffs is mounted at all, it is root's: the supervisor's descriptors serve.
    reason = status["unpinned_because"]
    assert str(BPFFS) in reason
    assert f"plane: steering, not pinned: {reason}" in render(status).splitlines()
    assert started.output.count(f"kernel steering is not pinned: {reason}\n") == 1
    assert sum(one["packets_received"] for one in status["transceivers"]) > 4 * 25
    assert sum(one["frames_received"] for one in status["transceivers"]) == 0
