"""A child's connection to control: says hello, reconnects for ever, hands messages on."""

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path

from voicerelay.shm import protocol
from voicerelay.shm.channel import Channel
from voicerelay.shm.protocol import Message
from voicerelay.shm.rundir import control_socket

FIRST_RETRY_S = 0.02
LAST_RETRY_S = 0.5
WELCOME_S = 2.0  # a control that accepts but does not answer counts as gone


class ControlClient:
    """Keeps one connection to control.

    `hello()` makes the first message of each connection; `on_welcome(welcome, fds)` and
    `on_message(message, fds)` own the descriptors; `on_lost()` follows each loss.
    """

    def __init__(
        self,
        run_dir: Path,
        hello: Callable[[], protocol.Hello],
        on_welcome: Callable[[protocol.Welcome, list[int]], None],
        on_message: Callable[[Message, list[int]], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._path = str(control_socket(run_dir))
        self._hello = hello
        self._on_welcome = on_welcome
        self._on_message = on_message
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._channel: Channel | None = None
        self._retry_s = FIRST_RETRY_S
        self._deadline: asyncio.TimerHandle | None = None
        self._left = False
        self.on_skew: Callable[[str], None] = lambda reason: None  # control is of another version
        self.welcomed = False
        self.refusal: str | None = None

    def connect(self) -> None:
        """Try now, and again after every failure."""
        if self._left:
            return
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            sock.connect(self._path)
        except OSError:
            sock.close()
            self._retry()
            return
        self._channel = Channel(sock, self._received, self._closed)
        self._deadline = self._loop.call_later(WELCOME_S, self._channel.close, "no welcome")
        self._channel.send(self._hello())

    def close(self) -> None:
        """Leave control for good."""
        self._left = True
        if self._channel is not None:
            self._channel.close("left")

    def send(self, message: Message) -> bool:
        """False when control is not there."""
        return self.welcomed and self._channel is not None and self._channel.send(message)

    def _received(self, message: Message, fds: list[int]) -> None:
        if isinstance(message, protocol.Welcome):
            self.welcomed = True
            self._retry_s = FIRST_RETRY_S
            self._cancel_deadline()
            self._on_welcome(message, fds)
        elif isinstance(message, protocol.Refused):
            self.refusal = message.reason
            if message.reason.startswith(protocol.SKEW):
                self.on_skew(message.reason)
        elif self.welcomed:
            self._on_message(message, fds)
        else:
            for fd in fds:
                os.close(fd)

    def _closed(self, _reason: str) -> None:
        self._cancel_deadline()
        was_welcomed, self.welcomed, self._channel = self.welcomed, False, None
        if was_welcomed and not self._left:
            self._on_lost()
        self._retry()

    def _retry(self) -> None:
        self._loop.call_later(self._retry_s, self.connect)
        self._retry_s = min(self._retry_s * 2, LAST_RETRY_S)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
