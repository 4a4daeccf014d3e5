"""Under a real systemd: the units start, keep their sandbox, and calls outlive what is killed."""

import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.booted import Booted, NotBooted, boot, obstacle
from tests.support.callers import callers, calls_work, still_there
from tests.support.client import Call, CallRefused
from tests.support.server import free_port
from tests.system.conftest import steering_unavailable

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(bool(obstacle()), reason=f"systemd: {obstacle()}"),
]

ROOT = Path(__file__).parents[2]
CALLS = 8
PATIENCE_S = 30.0
CONTROL = "voicerelay-control.service"
RELAYS = [f"voicerelay-relay@{i}.service" for i in range(2)]
TRANSCEIVER = "voicerelay-transceiver@0.service"
ADMIN = "voicerelay-admin.service"
SERVICES = [CONTROL, *RELAYS, TRANSCEIVER, ADMIN]
VOICERELAY = (sys.executable, "-P", "-m", "voicerelay")


class Installed:
    """voicerelay as `voicerelay systemd install` left it in a booted systemd."""

    def __init__(self, booted: Booted) -> None:
        self.booted = booted
        self.port = free_port(socket.SOCK_DGRAM)
        self.http = f"127.0.0.1:{free_port(socket.SOCK_STREAM)}"
        self.url = f"http://{self.http}"
        self.admin = f"127.0.0.1:{free_port(socket.SOCK_STREAM)}"

    def install(self, steering: str) -> None:
        """As an operator does it, and start everything."""
        (self.booted.root / "etc/voicerelay.toml").write_text(
            f'listen = ["127.0.0.1"]\nhttp = "{self.http}"\nrelays = 2\ntransceivers = 1\n'
            f'admin = "{self.admin}"\n'
        )
        options = ("--config", "/etc/voicerelay.toml", "--port", str(self.port))
        self.booted.run(*VOICERELAY, "systemd", "install", *options, "--steering", steering)
        self.booted.run("systemd-sysusers")
        self.booted.run("systemctl", "daemon-reload")
        self.booted.run("systemctl", "start", "voicerelay.target")

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.booted.run(*VOICERELAY, "status", "--json"))
        return found

    async def replaced(self, unit: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a unit's process, and wait until another one is at work."""
        old = self.booted.main_pid(unit)
        self.booted.kill(unit, number)
        await self.another(unit, old)

    async def another(self, unit: str, old: int) -> None:
        """Wait until another process than this one is at work."""
        async with asyncio.timeout(PATIENCE_S):
            pid, state = 0, ""
            while pid in (0, old) or state != "active":
                await asyncio.sleep(0.05)
                found, state = self.booted.show(unit, "MainPID", "ActiveState")
                pid = int(found)

    async def answers(self, path: str, *wanted: str) -> None:
        """Ask the admin unit until it answers with all of these texts."""
        async with asyncio.timeout(PATIENCE_S), aiohttp.ClientSession() as http:
            while True:
                async with http.get(f"http://{self.admin}{path}") as answer:
                    text = await answer.text()
                if answer.status == 200 and all(one in text for one in wanted):
                    return
                await asyncio.sleep(0.05)

    def warnings(self, unit: str) -> str:
        """What the journal has of a unit, with this priority or a higher one."""
        return self.booted.run("journalctl", f"--unit={unit}", "--priority=warning", "--output=cat")

    def state(self, unit: str) -> str:
        return self.booted.show(unit, "ActiveState")[0]


@pytest.fixture(scope="module")
def installed() -> Iterator[Installed]:
    with contextlib.ExitStack() as stack:
        try:
            booted = stack.enter_context(boot([ROOT, Path(sys.prefix), Path(sys.base_prefix)]))
        except NotBooted as exc:
            pytest.skip(f"no systemd boots here: {exc}")
        booted.run("systemctl", "start", "systemd-journald")
        running = Installed(booted)
        running.install("off")
        yield running


async def under_calls(installed: Installed, hits: Callable[[], Any]) -> list[Call]:
    """Calls talk while `hits()` goes on; returns those that do not go on."""
    async with callers(installed.url, CALLS) as (calls, _):
        hitting = asyncio.ensure_future(hits())
        while not hitting.done():
            await asyncio.gather(*(call.talk(0.5) for call in calls))
        await hitting
        lively = await asyncio.gather(*(still_there(call) for call in calls))
        return [call for call, alive in zip(calls, lively, strict=True) if not alive]


async def refused(url: str, http: aiohttp.ClientSession) -> bool:
    """Whether a new call is, for want of a transceiver that takes it."""
    call = Call(url)
    try:
        await call.connect(http)
    except CallRefused as exc:
        return exc.status == 503
    finally:
        await call.close()
    return False


def test_every_process_runs_with_no_rights(installed: Installed) -> None:
    for unit in SERVICES:
        pid = installed.booted.main_pid(unit)
        text = (installed.booted.root / f"proc/{pid}/status").read_text()
        told = dict(line.split(":\t", 1) for line in text.splitlines())

        assert "0" not in told["Uid"].split(), unit
        assert {int(told[f"Cap{name}"], 16) for name in ("Prm", "Eff", "Bnd", "Amb")} == {0}, unit
        assert (told["NoNewPrivs"], told["Seccomp"]) == ("1", "2"), unit
        assert told["Cpus_allowed_list"].isdigit() or unit != TRANSCEIVER  # it keeps to one core


def test_status_sees_the_instance(installed: Installed) -> None:
    status = installed.status()

    assert (status["port"], status["plane"], status["sockets"]) == (installed.port, "portable", 2)
    assert [len(status[kind]) for kind in ("relays", "transceivers")] == [2, 1]
    assert status["receive_buffer_bytes"] == 8 << 20


def test_the_admin_unit_tells_of_every_process(installed: Installed) -> None:
    up = ["control_up", *(f'relay_up{{relay="{i}"}}' for i in range(2))]
    up.append('transceiver_up{transceiver="0"}')
    asked_over_its_socket = "voicerelay_rtt_seconds_bucket"

    async def scenario() -> None:
        await installed.answers("/readyz", '"ready": true')
        lines = [f"voicerelay_{name} 1.0" for name in up]
        await installed.answers("/metrics", *lines, asked_over_its_socket)

    asyncio.run(scenario())
    assert installed.booted.show(ADMIN, "WatchdogUSec", "NRestarts") == ["10s", "0"]


def test_a_call_ends_before_a_transceiver_that_is_drained_or_reloaded(installed: Installed) -> None:
    async def scenario() -> None:
        booted, old = installed.booted, installed.booted.main_pid(TRANSCEIVER)
        async with callers(installed.url, 1) as ([call], http):
            booted.run(*VOICERELAY, "drain", "--no-wait")
            assert await refused(installed.url, http)

            booted.run("systemctl", "reload", TRANSCEIVER)

            assert await still_there(call)
            assert booted.main_pid(TRANSCEIVER) == old
            await call.hang_up(http)
        await installed.another(TRANSCEIVER, old)

    asyncio.run(scenario())


def test_no_call_is_lost_when_relays_and_control_go(installed: Installed) -> None:
    async def one_after_the_other() -> None:
        await installed.replaced(RELAYS[0])
        await installed.replaced(RELAYS[1], signal.SIGSTOP)
        # control found it, and had the right to end it
        assert installed.status()["control"]["relays_killed"] == 1
        assert "relay 1 hangs" in installed.warnings(CONTROL)
        await installed.replaced(CONTROL)

    async def scenario() -> None:
        assert await under_calls(installed, one_after_the_other) == []
        # a transceiver's end is its calls' end, and its successor takes new ones
        await installed.replaced(TRANSCEIVER)
        await calls_work(installed.url)

    asyncio.run(scenario())


def test_a_control_that_hangs_is_replaced_by_the_watchdog(installed: Installed) -> None:
    async def hang() -> None:
        await installed.replaced(CONTROL, signal.SIGSTOP)

    async def scenario() -> None:
        assert await under_calls(installed, hang) == []

    asyncio.run(scenario())


def test_a_stop_leaves_nothing_and_the_kernel_can_steer_after_it(installed: Installed) -> None:
    booted = installed.booted
    booted.run("systemctl", "stop", "voicerelay.target", *SERVICES)  # named, so that it waits

    assert {installed.state(unit) for unit in SERVICES} == {"inactive"}
    assert list((booted.root / "dev/shm").iterdir()) == []
    if reason := steering_unavailable():
        pytest.skip(f"kernel steering: {reason}")

    # when the same instance comes back with the program, whose maps outlive control
    installed.install("on")

    async def kill_control() -> None:
        await installed.replaced(CONTROL)

    async def scenario() -> None:
        assert await under_calls(installed, kill_control) == []
        await calls_work(installed.url)

    asyncio.run(scenario())
    status = installed.status()
    assert (status["plane"], status["sockets"]) == ("steering", 3)
    assert booted.show(CONTROL, "NFileDescriptorStore") == ["8"]
