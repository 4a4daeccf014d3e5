"""A child's connection to control: greets, reconnects for ever, and hands on what it may."""

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from voicerelay.shm import client as module
from voicerelay.shm import protocol
from voicerelay.shm.channel import Channel
from voicerelay.shm.client import FIRST_RETRY_S, LAST_RETRY_S, WELCOME_S, ControlClient
from voicerelay.shm.protocol import Message
from voicerelay.shm.rundir import control_socket

PATIENCE_S = 10.0
WELCOME = protocol.Welcome(b"i" * 16, "region", 7, b"k" * 32, False)


class Control:
    """The other side: a socket that tells what comes, and says what it is told."""

    def __init__(self, run_dir: Path) -> None:
        self.messages: list[Message] = []
        self.channels: list[Channel] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._listener.bind(str(control_socket(run_dir)))
        self._listener.listen()
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        self.channels.append(
            Channel(sock, lambda message, _: self.messages.append(message), lambda _: None)
        )

    def stop(self, run_dir: Path) -> None:
        asyncio.get_running_loop().remove_reader(self._listener.fileno())
        self._listener.close()
        control_socket(run_dir).unlink()
        for channel in self.channels:
            channel.close()


class Child:
    """A client and all it was told."""

    def __init__(self, run_dir: Path) -> None:
        self.generation = 0
        self.welcomes: list[protocol.Welcome] = []
        self.messages: list[Message] = []
        self.fds: list[int] = []
        self.lost = 0
        self.client = ControlClient(
            run_dir, self._hello, self._welcome, self._message, self._lost_one
        )

    def _hello(self) -> protocol.Hello:
        return protocol.Hello(1, 1, protocol.TRANSCEIVER, 3, self.generation, [])

    def _welcome(self, welcome: protocol.Welcome, fds: list[int]) -> None:
        self.generation = welcome.generation
        self.welcomes.append(welcome)
        self.fds += fds

    def _message(self, message: Message, fds: list[int]) -> None:
        self.messages.append(message)
        self.fds += fds

    def _lost_one(self) -> None:
        self.lost += 1


async def until(holds: Callable[[], object]) -> None:
    """Let the loop run until something holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.001)


def run(test: Coroutine[Any, Any, None]) -> None:
    before = set(os.listdir("/proc/self/fd"))

    asyncio.run(test)

    assert set(os.listdir("/proc/self/fd")) <= before


def test_a_child_says_hello_and_is_welcomed(tmp_path: Path) -> None:
    async def scenario() -> None:
        # given a control, and a child that connects
        control, child = Control(tmp_path), Child(tmp_path)
        child.client.connect()
        await until(lambda: control.messages)
        refused_early = child.client.send(protocol.ReplayDone())

        reader, writer = os.pipe()
        control.channels[0].send(WELCOME, [reader])
        await until(lambda: child.welcomes)

        assert control.messages == [protocol.Hello(1, 1, protocol.TRANSCEIVER, 3, 0, [])]
        assert not refused_early
        assert child.welcomes == [WELCOME]
        assert child.client.welcomed
        assert child.client.send(protocol.ReplayDone())
        await until(lambda: control.messages[1:] == [protocol.ReplayDone()])
        for fd in (reader, writer, *child.fds):
            os.close(fd)
        control.stop(tmp_path)
        await until(lambda: child.lost)

    run(scenario())


def test_a_child_waits_for_a_control_that_comes_late(tmp_path: Path) -> None:
    async def scenario() -> None:
        child = Child(tmp_path)
        child.client.connect()

        control = Control(tmp_path)
        await until(lambda: control.messages)

        control.stop(tmp_path)
        await until(lambda: child.client._channel is None)

    run(scenario())


def test_a_child_comes_back_with_its_generation(tmp_path: Path) -> None:
    async def scenario() -> None:
        # given a welcomed child whose control goes away
        control, child = Control(tmp_path), Child(tmp_path)
        child.client.connect()
        await until(lambda: control.messages)
        control.channels[0].send(WELCOME)
        await until(lambda: child.client.welcomed)
        control.stop(tmp_path)
        await until(lambda: child.lost)
        refused = child.client.send(protocol.ReplayDone())

        successor = Control(tmp_path)
        await until(lambda: successor.messages)

        assert not refused
        assert successor.messages == [protocol.Hello(1, 1, protocol.TRANSCEIVER, 3, 7, [])]
        assert child.lost == 1
        successor.stop(tmp_path)
        await until(lambda: child.client._channel is None)
        assert child.lost == 1  # it had not been welcomed again

    run(scenario())


def test_a_refusal_is_kept_and_tried_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        control, child = Control(tmp_path), Child(tmp_path)
        child.client.connect()
        await until(lambda: control.messages)

        control.channels[0].send(protocol.Refused("another version"))
        control.channels[0].close()
        await until(lambda: len(control.messages) == 2)

        assert child.client.refusal == "another version"
        assert child.lost == 0
        control.stop(tmp_path)
        await until(lambda: child.client._channel is None)

    run(scenario())


@pytest.mark.parametrize(
    ("reason", "told"), [(protocol.SKEW + "ABI", [protocol.SKEW + "ABI"]), ("later", [])]
)
def test_skew_is_told_and_what_may_pass_is_not(
    tmp_path: Path, reason: str, told: list[str]
) -> None:
    async def scenario() -> None:
        control, child = Control(tmp_path), Child(tmp_path)
        heard: list[str] = []
        child.client.on_skew = heard.append
        child.client.connect()
        await until(lambda: control.messages)

        control.channels[0].send(protocol.Refused(reason))
        await until(lambda: child.client.refusal)

        assert heard == told
        child.client.close()
        control.stop(tmp_path)

    run(scenario())


def test_who_leaves_control_does_not_come_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        # given a child that is welcome
        control, child = Control(tmp_path), Child(tmp_path)
        child.client.connect()
        await until(lambda: control.messages)
        control.channels[0].send(WELCOME)
        await until(lambda: child.welcomes)

        child.client.close()
        await until(lambda: control.channels[0].closed)
        await asyncio.sleep(3 * FIRST_RETRY_S)

        assert len(control.messages) == 1
        assert child.lost == 0  # nothing was lost that it did not give up
        control.stop(tmp_path)

    run(scenario())


def test_what_comes_before_the_welcome_is_not_handed_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        control, child = Control(tmp_path), Child(tmp_path)
        child.client.connect()
        await until(lambda: control.messages)
        reader, writer = os.pipe()

        control.channels[0].send(protocol.Adopt(1), [reader])
        control.channels[0].send(WELCOME)
        control.channels[0].send(protocol.Adopt(2), [reader])
        await until(lambda: child.messages)

        assert child.messages == [protocol.Adopt(2)]
        assert len(child.fds) == 1
        for fd in (reader, writer, *child.fds):
            os.close(fd)
        control.stop(tmp_path)
        await until(lambda: child.lost)

    run(scenario())


def test_a_control_that_does_not_answer_counts_as_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        # given a control that accepts and says nothing
        monkeypatch.setattr(module, "WELCOME_S", 0.02)
        control, child = Control(tmp_path), Child(tmp_path)

        child.client.connect()
        await until(lambda: len(control.messages) >= 2)

        assert not child.client.welcomed
        control.stop(tmp_path)
        await until(lambda: child.client._channel is None)

    run(scenario())


def test_retries_slow_down_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> list[float]:
        # given no control at all, and a loop that tells how long it is asked to wait
        delays: list[float] = []
        loop = asyncio.get_running_loop()

        def at_once(delay: float, callback: Callable[[], None]) -> None:
            delays.append(delay)
            if len(delays) < 10:
                loop.call_soon(callback)

        monkeypatch.setattr(loop, "call_later", at_once)
        Child(tmp_path).client.connect()
        while len(delays) < 10:
            await asyncio.sleep(0)
        monkeypatch.undo()
        return delays

    delays = asyncio.run(scenario())

    assert delays[0] == FIRST_RETRY_S
    assert delays[-1] == LAST_RETRY_S
    assert delays == sorted(delays)
    assert FIRST_RETRY_S < LAST_RETRY_S < WELCOME_S
