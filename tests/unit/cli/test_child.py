"""A child process: started, heard, started again when it dies, and not when it is stopped."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from voicerelay.cli import child as module
from voicerelay.cli.child import FIRST_BACKOFF_S, LAST_BACKOFF_S, Child, Kept

PATIENCE_S = 20.0

# The child: does what its settings say, over the lifeline they name.
PROGRAM = """
import os, signal, sys
from voicerelay.shm.lifeline import Lifeline
what, lifeline = sys.argv[1].split()
lifeline = Lifeline(int(lifeline))
if what == "ready":
    lifeline.ready()
elif what == "fail":
    lifeline.fail("the reason")
    sys.exit(2)
elif what == "obey":
    lifeline.ready()
    order = lifeline._socket.recv(64)
    sys.exit(int(order.split()[1]))
else:
    sys.exit(3)
signal.pause()
"""


class World:
    """A child and what was heard of it."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.codes: list[int] = []
        self.changed = asyncio.Event()
        self.child = Child("it", "vrtest_child", lambda fd: f"{self.what} {fd}", [], self._ended)

    def _ended(self, _child: Child, code: int) -> None:
        self.codes.append(code)
        self.changed.set()

    async def report(self) -> str:
        async with asyncio.timeout(PATIENCE_S):
            return await asyncio.shield(self.child.reported)

    async def until_ended(self, times: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.codes) < times:
                self.changed.clear()
                await self.changed.wait()


def orphan(what: str) -> Kept:
    """A child that no `Child` has started."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.set_inheritable(True)
    command = [sys.executable, "-P", "-m", "vrtest_child", f"{what} {theirs.fileno()}"]
    pid = os.posix_spawn(sys.executable, command, os.environ)
    theirs.close()
    return Kept("it", pid, ours.detach(), ready=True, stopping=False)


Scenario = Callable[[World], Awaitable[None]]
Run = Callable[[str, Scenario], None]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a scenario with a child, end the child, and hold that no descriptor is left."""
    (tmp_path / "vrtest_child.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    async def within(what: str, scenario: Scenario) -> None:
        world = World(what)
        try:
            await scenario(world)
        finally:
            world.child.stop(signal.SIGKILL)
            async with asyncio.timeout(PATIENCE_S):
                await world.child.exited.wait()

    def check(what: str, scenario: Scenario) -> None:
        before = set(os.listdir("/proc/self/fd"))
        asyncio.run(within(what, scenario))
        assert set(os.listdir("/proc/self/fd")) <= before

    return check


@pytest.mark.parametrize(
    ("what", "report"),
    [("ready", ""), ("fail", "the reason"), ("die", "ended at once with exit code 3")],
)
def test_a_child_reports_how_its_start_went(run: Run, what: str, report: str) -> None:
    async def scenario(world: World) -> None:
        world.child.start()

        assert await world.report() == report

    run(what, scenario)


def test_a_child_that_died_is_started_again(run: Run) -> None:
    async def scenario(world: World) -> None:
        # given a child that is ready
        world.child.start()
        await world.report()
        first = world.child.pid

        world.child.send_signal(signal.SIGKILL)
        await world.until_ended(1)
        async with asyncio.timeout(PATIENCE_S):
            while world.child.pid == first:
                await asyncio.sleep(0.005)

        assert await world.report() == ""
        assert world.codes == [-signal.SIGKILL]

    run("ready", scenario)


def test_a_child_that_is_stopped_stays_away(run: Run) -> None:
    async def scenario(world: World) -> None:
        world.child.start()
        await world.report()
        pid = world.child.pid

        world.child.stop()
        await world.until_ended(1)

        assert world.codes == [-signal.SIGTERM]
        assert world.child.exited.is_set()
        await asyncio.sleep(3 * FIRST_BACKOFF_S)
        assert world.child.pid == pid

    run("ready", scenario)


def test_a_child_that_waits_for_its_restart_can_be_stopped(run: Run) -> None:
    async def scenario(world: World) -> None:
        world.child.start()
        await world.until_ended(1)
        pid = world.child.pid

        world.child.stop()

        assert world.child.exited.is_set()
        await asyncio.sleep(3 * FIRST_BACKOFF_S)
        assert world.child.pid == pid

    run("die", scenario)


def test_a_child_that_never_started_can_be_stopped(run: Run) -> None:
    async def scenario(world: World) -> None:
        world.child.stop()

        assert world.child.exited.is_set()
        assert world.child.pid is None
        world.child.send_signal(signal.SIGKILL)  # there is nobody to hear it

    run("ready", scenario)


def test_restarts_slow_down_to_a_limit_and_are_quick_after_a_steady_life(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(world: World) -> None:
        # given a child that dies at once, and restarts that do not wait but tell how long
        delays: list[float] = []
        loop = asyncio.get_running_loop()
        later = loop.call_later

        def at_once(delay: float, callback: Callable[..., object], *rest: object) -> object:
            if callback == world.child.start:
                delays.append(delay)
                delay = 0
            return later(delay, callback, *rest)

        monkeypatch.setattr(loop, "call_later", at_once)
        monkeypatch.setattr(module, "LAST_BACKOFF_S", 4 * FIRST_BACKOFF_S)
        world.child.start()
        await world.until_ended(4)
        monkeypatch.setattr(module, "STEADY_S", 0.0)
        await world.until_ended(5)

        assert delays[:5] == [FIRST_BACKOFF_S * factor for factor in (1, 2, 4, 4, 1)]

    run("die", scenario)

    assert FIRST_BACKOFF_S < LAST_BACKOFF_S


def test_a_child_that_is_replaced_has_a_successor_at_once_and_nobody_is_told_of_its_end(
    run: Run,
) -> None:
    async def scenario(world: World) -> None:
        # given a child that is ready
        world.child.start()
        await world.report()
        first = world.child.pid

        world.child.replace()

        assert await world.report() == ""
        assert world.child.pid != first
        assert world.codes == []

    run("ready", scenario)


def test_a_successor_that_fails_says_why(run: Run) -> None:
    async def scenario(world: World) -> None:
        world.child.start()
        await world.report()
        world.what = "fail"

        world.child.replace()

        assert await world.report() == "the reason"

    run("ready", scenario)


def test_a_child_that_retires_gets_its_order_and_is_not_started_again(run: Run) -> None:
    async def scenario(world: World) -> None:
        world.child.start()
        await world.report()
        pid = world.child.pid

        world.child.retire(b"end 7")
        await world.until_ended(1)

        assert world.codes == [7]
        assert world.child.stopping
        await asyncio.sleep(3 * FIRST_BACKOFF_S)
        assert world.child.pid == pid

    run("obey", scenario)


def test_a_child_that_is_gone_retires_without_an_order(run: Run) -> None:
    async def scenario(world: World) -> None:
        world.child.retire(b"end 7")

        assert world.child.exited.is_set()
        assert not world.child.running

    run("ready", scenario)


def test_another_supervisor_goes_on_with_a_child(run: Run) -> None:
    async def scenario(world: World) -> None:
        # given what is kept of a child by exec: its pid and a descriptor
        kept = orphan("obey")

        world.child.take_over(kept)

        assert await world.report() == ""
        assert world.child.keep() == kept
        world.child.retire(b"end 7")
        await world.until_ended(1)
        assert world.codes == [7]

    run("obey", scenario)
