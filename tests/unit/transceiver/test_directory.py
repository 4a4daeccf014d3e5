"""The transceiver's side of control: asking, being refused or left alone, and telling it all again."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from voicerelay.shm import protocol
from voicerelay.shm.channel import Channel
from voicerelay.shm.path import pack_path
from voicerelay.shm.protocol import MAX_REPLAY_ENTRIES, Message
from voicerelay.shm.region import ABI
from voicerelay.shm.rundir import control_socket
from voicerelay.transceiver.directory import (
    CONTROL_GONE,
    MAX_PENDING_REQUESTS,
    Directory,
    DirectoryError,
)

WAIT_S = 10.0
SLOT, GENERATION = 3, 17
WELCOME = protocol.Welcome(b"i" * 16, "region", GENERATION, b"k" * 32, False)


def ufrag(number: int) -> bytes:
    return b"%020d" % number


def path(number: int) -> bytes:
    return pack_path(0, "192.0.2.7", number)


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not happened():
            await asyncio.sleep(0.001)


class Control:
    """A control that notes what it is told; it answers by `answer`, or not at all."""

    def __init__(self, run_dir: Path) -> None:
        self._path = control_socket(run_dir)
        self.messages: list[Message] = []
        self.answer: str | None = ""
        self.channel: Channel | None = None
        self._listener: socket.socket | None = None

    def start(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        self._listener.bind(str(self._path))
        self._listener.listen(4)
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    def die(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None
        self._path.unlink(missing_ok=True)
        if self.channel is not None:
            self.channel.close()
            self.channel = None

    def tell(self, message: Message) -> None:
        assert self.channel is not None
        self.channel.send(message)

    def of(self, kind: type[Message]) -> list[Message]:
        return [message for message in self.messages if isinstance(message, kind)]

    def _accept(self) -> None:
        assert self._listener is not None
        sock, _ = self._listener.accept()
        self.channel = Channel(sock, self._received, lambda _reason: None)

    def _received(self, message: Message, _fds: list[int]) -> None:
        self.messages.append(message)
        if isinstance(message, protocol.Hello):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as public:
                assert self.channel is not None
                self.channel.send(WELCOME, [public.fileno()])
        if self.answer is None:
            return
        if isinstance(message, protocol.RegisterRoute | protocol.CommitFlow):
            self.tell(protocol.Done(message.request, self.answer))


class Host:
    """A directory and its control."""

    def __init__(self, run_dir: Path) -> None:
        self.control = Control(run_dir)
        self.welcomes: list[protocol.Welcome] = []
        self.lost: list[tuple[bytes, int]] = []
        self.errors: list[str] = []
        self.directory = Directory(
            run_dir, SLOT, self._ready, lambda path, number: self.lost.append((path, number))
        )

    def _ready(self, welcome: protocol.Welcome, sockets: list[socket.socket]) -> None:
        self.welcomes.append(welcome)
        assert [sock.type for sock in sockets] == [socket.SOCK_DGRAM]
        for sock in sockets:
            sock.close()

    async def commit(self, number: int, session: int) -> str:
        """What a commit was answered with."""
        self.errors.clear()
        self.directory.commit(path(number), session, self.errors.append)
        await until(lambda: bool(self.errors))
        return self.errors[0]

    async def reconnect(self) -> None:
        before = len(self.control.of(protocol.ReplayDone))
        self.control.die()
        await until(lambda: not self.directory.available)
        self.control.start()
        await until(lambda: len(self.control.of(protocol.ReplayDone)) > before)


@contextlib.asynccontextmanager
async def host(start: bool = True) -> AsyncIterator[Host]:
    with TemporaryDirectory() as folder:
        made = Host(Path(folder))
        if start:
            made.control.start()
            made.directory.connect()
            await until(lambda: bool(made.control.of(protocol.ReplayDone)))
        try:
            yield made
        finally:
            made.control.die()
            await until(lambda: made.directory._client._channel is None)


def test_it_says_who_it_is_and_takes_what_it_is_given() -> None:
    async def run() -> None:
        async with host() as here:
            hello = protocol.Hello(protocol.PROTOCOL, ABI, protocol.TRANSCEIVER, SLOT, 0, [])
            assert here.control.messages == [hello, protocol.ReplayDone()]
            assert here.welcomes == [WELCOME]
            assert here.directory.available

    asyncio.run(run())


def test_a_route_that_control_writes_is_ours_until_we_give_it_back() -> None:
    async def run() -> None:
        async with host() as here:
            await here.directory.register(ufrag(1), 9)
            assert here.directory.routes == {ufrag(1): 9}

            for _ in range(2):  # giving back twice tells control once
                here.directory.unregister(ufrag(1))
            assert not here.directory.routes
            await here.commit(1, 1)  # what was sent before has arrived by now
            assert len(here.control.of(protocol.UnregisterRoute)) == 1

    asyncio.run(run())


def test_a_refusal_reaches_whoever_asked_and_is_not_kept() -> None:
    async def run() -> None:
        async with host() as here:
            here.control.answer = "the route table is full"

            with pytest.raises(DirectoryError, match="the route table is full"):
                await here.directory.register(ufrag(1), 9)
            assert await here.commit(1, 9) == "the route table is full"

            assert (here.directory.routes, here.directory.flows) == ({}, {})

    asyncio.run(run())


def test_without_control_everything_fails_at_once() -> None:
    async def run() -> None:
        async with host(start=False) as here:
            assert not here.directory.available

            with pytest.raises(DirectoryError, match=CONTROL_GONE):
                await here.directory.register(ufrag(1), 9)
            here.directory.commit(path(1), 9, here.errors.append)

            assert here.errors == [CONTROL_GONE]

    asyncio.run(run())


def test_a_control_that_dies_answers_all_that_wait() -> None:
    async def run() -> None:
        async with host() as here:
            # given requests that control has not answered
            here.control.answer = None
            waiting = asyncio.ensure_future(here.directory.register(ufrag(1), 9))
            here.directory.commit(path(1), 9, here.errors.append)
            await until(lambda: bool(here.control.of(protocol.CommitFlow)))

            # when it dies
            here.control.die()

            # then they fail without waiting for a time-out
            with pytest.raises(DirectoryError, match=CONTROL_GONE):
                await waiting
            assert here.errors == [CONTROL_GONE]
            assert not here.directory._pending

    asyncio.run(run())


def test_requests_that_wait_are_bounded() -> None:
    async def run() -> None:
        async with host() as here:
            here.control.answer = None
            for number in range(MAX_PENDING_REQUESTS):
                here.directory.commit(path(number), 1, lambda _error: None)

            here.directory.commit(path(9), 1, here.errors.append)

            assert here.errors == ["too many requests wait for control"]
            assert len(here.directory._pending) == MAX_PENDING_REQUESTS

    asyncio.run(run())


def test_a_flow_is_released_by_its_session_only() -> None:
    async def run() -> None:
        async with host() as here:
            # given a flow that went from session 1 to session 2
            assert [await here.commit(1, session) for session in (1, 2)] == ["", ""]

            # when both let go of it
            here.directory.release(path(1), 1)
            assert here.directory.flows == {path(1): 2}
            here.directory.release(path(1), 2)

            # then control hears of the one that counts
            assert here.directory.flows == {}
            await here.commit(2, 2)
            assert here.control.of(protocol.ReleaseFlow) == [protocol.ReleaseFlow(path(1), 2)]

    asyncio.run(run())


def test_a_flow_that_another_session_took_is_forgotten_and_told() -> None:
    async def run() -> None:
        async with host() as here:
            for number in (1, 2):
                await here.commit(number, 5)

            here.control.tell(protocol.FlowLost(path(1), 5))
            here.control.tell(protocol.FlowLost(path(2), 4))  # of an owner before us
            await until(lambda: len(here.lost) == 2)

            assert here.lost == [(path(1), 5), (path(2), 4)]
            assert here.directory.flows == {path(2): 5}

    asyncio.run(run())


def test_a_new_control_is_told_everything_in_messages_of_allowed_size() -> None:
    async def run() -> None:
        async with host() as here:
            # given more routes and flows than one message holds
            count = MAX_REPLAY_ENTRIES + 100
            for number in range(count):
                await here.directory.register(ufrag(number), number)
            here.directory.flows = {path(number): number for number in range(count // 2)}
            here.control.messages.clear()

            # when control dies and another one comes
            await here.reconnect()

            # then it hears who we were, all that is ours, and that this was all
            hello, *replays, done = here.control.messages
            assert isinstance(hello, protocol.Hello)
            assert hello.generation == GENERATION
            assert done == protocol.ReplayDone()
            routes, flows = [], []
            for replay in replays:
                assert isinstance(replay, protocol.Replay)
                assert len(replay.routes) + len(replay.flows) <= MAX_REPLAY_ENTRIES
                routes += replay.routes
                flows += replay.flows
            assert routes == [[ufrag(number), number] for number in range(count)]
            assert flows == [[path(number), number] for number in range(count // 2)]
            assert here.welcomes == [WELCOME] * 2

    asyncio.run(run())
