"""The transceiver's side of control: routes and flows are asked for here, and replayed after a loss."""

import asyncio
import itertools
import os
import socket
from collections.abc import Callable
from pathlib import Path

from voicerelay.shm import protocol
from voicerelay.shm.client import ControlClient
from voicerelay.shm.protocol import MAX_REPLAY_ENTRIES, Message
from voicerelay.shm.region import ABI

REQUEST_TIMEOUT_S = 0.8  # an offer must fail within a second when control is gone
MAX_PENDING_REQUESTS = 8192

CONTROL_GONE = "control is not reachable"


class DirectoryError(Exception):
    """A route could not be registered; the message says why (control gone, table full)."""


class Directory:
    """What this transceiver owns in the shared tables.

    `on_ready(welcome, sockets)` follows every (re)connection, `on_flow_lost(path)` another
    session's taking over of a path.
    """

    def __init__(
        self,
        run_dir: Path,
        slot: int,
        on_ready: Callable[[protocol.Welcome, list[socket.socket]], None],
        on_flow_lost: Callable[[bytes, int], None],
    ) -> None:
        self._slot = slot
        self._on_ready = on_ready
        self._on_flow_lost = on_flow_lost
        self._loop = asyncio.get_running_loop()
        self._client = ControlClient(run_dir, self._hello, self._welcome, self._message, self._lost)
        self._numbers = itertools.cycle(range(1, 1 << 32))
        self._pending: dict[int, tuple[Callable[[str], None], asyncio.TimerHandle, Message]] = {}
        self._late: dict[int, Message] = {}
        self.generation = 0
        self.routes: dict[bytes, int] = {}
        self.flows: dict[bytes, int] = {}

    @property
    def available(self) -> bool:
        """Whether control answers, so that a new session can be taken on."""
        return self._client.welcomed

    def connect(self, on_skew: Callable[[str], None] = lambda reason: None) -> None:
        """Try for ever; `on_skew(reason)` tells of a control of another version."""
        self._client.on_skew = on_skew
        self._client.connect()

    async def register(self, ufrag: bytes, session: int) -> None:
        """Make a route. Raises DirectoryError within REQUEST_TIMEOUT_S."""
        answer: asyncio.Future[str] = self._loop.create_future()

        def done(error: str) -> None:
            if not answer.done():
                answer.set_result(error)

        self._request(
            lambda number: protocol.RegisterRoute(number, ufrag, session),
            protocol.UnregisterRoute(ufrag),
            done,
        )
        error = await answer
        if error:
            raise DirectoryError(error)
        self.routes[ufrag] = session

    def commit(self, path: bytes, session: int, done: Callable[[str], None]) -> None:
        """Write a flow; `done(error)` is called when it stands in the table (error empty) or not."""

        def answered(error: str) -> None:
            if not error:
                self.flows[path] = session
            done(error)

        self._request(
            lambda number: protocol.CommitFlow(number, path, session),
            protocol.ReleaseFlow(path, session),
            answered,
        )

    def unregister(self, ufrag: bytes) -> None:
        if self.routes.pop(ufrag, None) is not None:
            self._client.send(protocol.UnregisterRoute(ufrag))

    def release(self, path: bytes, session: int) -> None:
        if self.flows.get(path) == session:
            del self.flows[path]
            self._client.send(protocol.ReleaseFlow(path, session))

    def _request(
        self, make: Callable[[int], Message], undo: Message, done: Callable[[str], None]
    ) -> None:
        if len(self._pending) >= MAX_PENDING_REQUESTS:
            done("too many requests wait for control")
            return
        number = next(self._numbers)
        if not self._client.send(make(number)):
            done(CONTROL_GONE)
            return
        timer = self._loop.call_later(REQUEST_TIMEOUT_S, self._give_up, number, undo)
        self._pending[number] = done, timer, undo

    def _wanted_again(self, undo: Message) -> bool:
        """Whether a later request for the same flow stands or waits: then it is to stay."""
        if not isinstance(undo, protocol.ReleaseFlow):
            return False
        return self.flows.get(undo.path) == undo.session or any(
            waiting == undo for _, _, waiting in self._pending.values()
        )

    def _give_up(self, number: int, undo: Message) -> None:
        """No answer in time. Should control grant it after all, it is taken back."""
        self._answer(number, CONTROL_GONE)
        if len(self._late) < MAX_PENDING_REQUESTS:
            self._late[number] = undo

    def _answer(self, number: int, error: str) -> None:
        waiting = self._pending.pop(number, None)
        if waiting is not None:
            done, timer, _ = waiting
            timer.cancel()
            done(error)

    def _hello(self) -> protocol.Hello:
        return protocol.Hello(
            protocol.PROTOCOL, ABI, protocol.TRANSCEIVER, self._slot, self.generation, []
        )

    def _welcome(self, welcome: protocol.Welcome, fds: list[int]) -> None:
        self.generation = welcome.generation
        self._replay()
        self._on_ready(welcome, [socket.socket(fileno=fd) for fd in fds])

    def _replay(self) -> None:
        routes = [[key, session] for key, session in self.routes.items()]
        flows = [[key, session] for key, session in self.flows.items()]
        # Both lists share a message's budget of entries and bytes.
        step = MAX_REPLAY_ENTRIES // 2
        for start in range(0, max(len(routes), len(flows)), step):
            end = start + step
            self._client.send(protocol.Replay(routes[start:end], flows[start:end]))
        self._client.send(protocol.ReplayDone())

    def _message(self, message: Message, fds: list[int]) -> None:
        for fd in fds:
            os.close(fd)
        match message:
            case protocol.Done(number, error):
                undo = self._late.pop(number, None)
                if undo is None:
                    self._answer(number, error)
                elif not error and not self._wanted_again(undo):
                    self._client.send(undo)
            case protocol.FlowLost(path, session):
                if self.flows.get(path) == session:
                    del self.flows[path]
                self._on_flow_lost(path, session)
            case _:
                pass

    def _lost(self) -> None:
        self._late.clear()  # the replay will not name them
        for number in list(self._pending):
            self._answer(number, CONTROL_GONE)
