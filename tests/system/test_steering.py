"""Kernel steering with real processes: calls that need no relay, deaths that cost none, rights that are missing."""

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.callers import callers, heard_all, still_there, talk_all
from tests.support.client import Call
from tests.support.server import Server, free_port, server
from tests.system.conftest import steering_unavailable
from voicerelay.cli.status import read_status, render
from voicerelay.relay.steering import OBJECT

pytestmark = pytest.mark.system

CALLS = 10
PACKETS_A_SECOND = 50
PATIENCE_S = 15.0
BPFFS = Path("/sys/fs/bpf")
ON = ("--steering", "on")
AS_NOBODY = ("setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups")
WITHOUT_RIGHTS = (*AS_NOBODY, "--pdeathsig", "KILL", "--bounding-set", "-all")
WITH_CAP_BPF = (
    *(*AS_NOBODY, "--pdeathsig", "KILL", "--bounding-set", "-all,+bpf"),
    *("--inh-caps", "+bpf", "--ambient-caps", "+bpf"),
)
LOAD = "from voicerelay.relay import steering; steering.BpfObject(steering.OBJECT).load()"
IMPORT = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import {}'], check=True)"


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


def relays(run_dir: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read_status(run_dir)["relays"]
    return found


def relayed(run_dir: Path) -> int:
    """Packets that the relays that are now here have seen."""
    return sum(relay["packets_received"] for relay in relays(run_dir))


def control(running: Server, figure: str) -> int:
    return int((read_status(running.run_dir)["control"] or {}).get(figure, 0))


async def owner(http: aiohttp.ClientSession, running: Server, call: Call) -> int:
    """Slot of the transceiver that a call lives on."""
    url = running.http_url + call.resource.replace("/whip/", "/sessions/")
    async with http.get(url) as response:
        return int((await response.json())["transceiver"])


def everybody_is_back(running: Server, killed: set[int]) -> Callable[[], bool]:
    def look() -> bool:
        status = read_status(running.run_dir)
        here = [status["control"] or {"pid": 0, "peers": 0}, *status["relays"]]
        reading = [relay["sockets_read"] for relay in status["relays"]]
        new = not killed & {process["pid"] for process in here}
        return new and reading == [1, 1] and here[0]["peers"] == 4

    return look


async def talk_while_killed(running: Server, calls: Sequence[Call], pids: Sequence[int]) -> None:
    """Everybody talks for 2 s; in the midst of it processes are killed at once."""
    heard = [len(call.received) for call in calls]
    talk = asyncio.ensure_future(talk_all(calls, 2.0))
    await wait_for(
        lambda: all(len(c.received) > h + 20 for c, h in zip(calls, heard, strict=True)),
        "every call to be heard",
    )
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    await talk
    await wait_for(everybody_is_back(running, set(pids)), "new processes")


async def nothing_was_lost(calls: Sequence[Call]) -> bool:
    """Whether all that was ever said came back, once and in order."""
    await asyncio.gather(*(heard_all(call, 0) for call in calls))
    return all(call.numbers() == list(range(call.sent)) for call in calls)


def test_relays_see_nothing_of_established_calls(running: Server) -> None:
    async def scenario() -> None:
        # given calls that are set up
        async with callers(running.http_url, CALLS) as (calls, _):
            await talk_all(calls, 0.2)
            before, steered = relayed(running.run_dir), control(running, "steered_by_flow")

            await talk_all(calls, 2.0)

            assert await nothing_was_lost(calls)
            await wait_for(
                lambda: (
                    control(running, "steered_by_flow") >= steered + CALLS * 2.0 * PACKETS_A_SECOND
                ),
                "the kernel's counters",
            )
            assert relayed(running.run_dir) == before
            assert control(running, "steered_by_ufrag") >= CALLS
            assert control(running, "steered_dropped_no_relay") == 0

    asyncio.run(scenario())


def test_status_says_that_the_kernel_steers(running: Server) -> None:
    status = read_status(running.run_dir)

    assert (status["plane"], status["portable_because"]) == ("steering", "")
    assert "plane: steering" in render(status).splitlines()
    assert "plane   kernel steering" in running.output
    assert "steering is off" not in running.output


def test_the_death_of_every_relay_at_once_costs_no_packet(running: Server) -> None:
    async def scenario() -> None:
        async with callers(running.http_url, CALLS) as (calls, _):
            pids = [relay["pid"] for relay in relays(running.run_dir)]

            await talk_while_killed(running, calls, pids)

            assert await nothing_was_lost(calls)

    asyncio.run(scenario())


def test_the_death_of_control_and_every_relay_costs_no_packet(running: Server) -> None:
    async def scenario() -> None:
        async with callers(running.http_url, CALLS) as (calls, _):
            status = read_status(running.run_dir)
            pids = [status["control"]["pid"], *(relay["pid"] for relay in status["relays"])]

            await talk_while_killed(running, calls, pids)

            assert await nothing_was_lost(calls)
            async with callers(running.http_url, 2) as (fresh, _):
                await talk_all([*calls, *fresh], 0.5)
                assert await nothing_was_lost([*calls, *fresh])

    asyncio.run(scenario())


def test_a_transceivers_death_ends_exactly_its_calls_and_its_successor_hears_its_own(
    running: Server,
) -> None:
    def strays() -> int:
        return sum(relay["dropped"]["unknown_flow"] for relay in relays(running.run_dir))

    async def scenario() -> None:
        # given calls on both transceivers
        async with callers(running.http_url, CALLS) as (calls, http):
            owners = [await owner(http, running, call) for call in calls]
            doomed = [call for call, slot in zip(calls, owners, strict=True) if slot == 1]
            others = [call for call in calls if call not in doomed]
            assert doomed
            assert others
            (before,) = (t for t in read_status(running.run_dir)["transceivers"] if t["slot"] == 1)

            # when one of them dies and its successor comes
            os.kill(before["pid"], signal.SIGKILL)
            await wait_for(
                lambda: any(
                    one["slot"] == 1 and one["generation"] > before["generation"]
                    for one in read_status(running.run_dir)["transceivers"]
                ),
                "the successor",
            )
            heard, counted = [len(call.received) for call in doomed], strays()
            async with callers(running.http_url, 6) as (fresh, _):
                assert 1 in [await owner(http, running, call) for call in fresh]
                await talk_all([*calls, *fresh], 1.0)

                # then the others and the new calls go on and hear their own, and nothing else
                assert await nothing_was_lost([*others, *fresh])
                assert [len(call.received) for call in doomed] == heard
                # and what was for the dead comes to the relays, which count it
                await wait_for(
                    lambda: strays() >= counted + len(doomed) * PACKETS_A_SECOND, "the strays"
                )

    asyncio.run(scenario())


def pinned() -> list[Path]:
    return sorted(BPFFS.rglob("*"))


def test_a_clean_stop_leaves_nothing_in_the_kernel() -> None:
    async def scenario(running: Server) -> None:
        async with callers(running.http_url, 4) as (calls, _):
            await talk_all(calls, 0.5)
            assert await nothing_was_lost(calls)

    # given a steered run that has had its calls
    before = pinned()
    with server(extra=ON) as first:
        asyncio.run(scenario(first))
        assert pinned() == before  # nor while it runs
        assert first.stop() == 0
    assert pinned() == before

    # when another starts on its port without steering
    with server(extra=["--steering", "off", "--port", str(first.port)]) as second:
        asyncio.run(scenario(second))

        # then its relays see every packet
        status = read_status(second.run_dir)
        assert (status["plane"], status["port"]) == ("portable", first.port)
        assert relayed(second.run_dir) >= 4 * 0.5 * PACKETS_A_SECOND
        assert status["control"]["steered_by_flow"] == 0


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A home of nobody's, with a `python` that nobody can run and that has voicerelay."""
    if os.geteuid() or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv to become nobody")
    folder = Path(tempfile.mkdtemp(prefix="voicerelay-nobody-"))
    site = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    site.mkdir(parents=True)
    (folder / "bin").mkdir()
    modules = Path(aiohttp.__file__).parents[1]
    (site / "modules.pth").write_text(f"import site; site.addsitedir({str(modules)!r})\n")
    os.chown(folder, pwd.getpwnam("nobody").pw_uid, -1)
    python = folder / "bin" / "python"
    for base in (Path(sys.executable).resolve(), Path("/usr/bin", site.parent.name)):
        python.unlink(missing_ok=True)
        python.symlink_to(base)
        (folder / "pyvenv.cfg").write_text(f"home = {base.parent}\n")
        probe = [*WITHOUT_RIGHTS, str(python), "-c", IMPORT.format("voicerelay, av, aiortc")]
        if not subprocess.run(probe, capture_output=True, check=False, timeout=60).returncode:
            break
    else:
        shutil.rmtree(folder)
        pytest.skip("nobody can run no Python that has voicerelay")
    yield folder
    shutil.rmtree(folder)


def test_auto_without_the_right_runs_portable_and_says_why_once(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(home / "bin" / "python"))
    extra = ["--steering", "auto", "--run-dir", str(home / "run")]

    with server(prefix=WITHOUT_RIGHTS, extra=extra, env={"HOME": str(home)}) as started:
        asyncio.run(a_call_works(started))
        status = read_status(home / "run")

    (line,) = (line for line in started.output.splitlines() if "steering" in line)
    assert line.startswith("kernel steering is off: ")
    assert "CAP_BPF" in line
    assert status["plane"] == "portable"
    assert status["portable_because"] in line
    assert f"plane: portable {status['portable_because']}" in render(status).splitlines()
    assert "plane   portable" in started.output


async def a_call_works(running: Server) -> None:
    async with callers(running.http_url, 1) as (calls, _):
        assert await still_there(calls[0])


def test_on_without_the_right_is_one_line_and_exit_2(home: Path) -> None:
    command = [*WITHOUT_RIGHTS, str(home / "bin" / "python"), "-P", "-m", "voicerelay", "start"]
    ports = ["--port", str(free_port(2)), "--http", f"127.0.0.1:{free_port(1)}"]

    done = subprocess.run(
        [*command, *ON, "--listen", "127.0.0.1", *ports, "--run-dir", str(home / "run")],
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
    probe = [*WITH_CAP_BPF, python, "-c", LOAD]
    loaded = subprocess.run(probe, capture_output=True, text=True, check=False, timeout=30)
    if loaded.returncode:
        pytest.skip(f"kernel steering as nobody: {loaded.stderr.splitlines()[-1]}")
    monkeypatch.setattr(sys, "executable", python)
    extra = [*ON, "--run-dir", str(home / "run")]

    async def scenario(running: Server) -> None:
        async with callers(running.http_url, 2) as (calls, _):
            await talk_all(calls, 0.2)
            before = relayed(home / "run")
            await talk_all(calls, 1.0)
            assert await nothing_was_lost(calls)
            assert relayed(home / "run") == before

    with server(prefix=WITH_CAP_BPF, extra=extra, env={"HOME": str(home)}) as started:
        asyncio.run(scenario(started))
        assert read_status(home / "run")["plane"] == "steering"
        assert started.stop() == 0
