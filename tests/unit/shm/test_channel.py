"""The channel: messages and descriptors over a Unix socket, bounded, closed once, nothing leaked."""

import asyncio
import itertools
import os
import socket
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import Any

from voicerelay.shm import protocol
from voicerelay.shm.channel import MAX_FDS, MAX_PENDING_BYTES, READ_BYTES, Channel
from voicerelay.shm.protocol import Message, encode

PATIENCE_S = 10.0
LONG = protocol.Replay([[b"u" * 20, 1]] * protocol.MAX_REPLAY_ENTRIES, [])


class End:
    """A channel and all it was told."""

    def __init__(self, sock: socket.socket) -> None:
        self.messages: list[Message] = []
        self.fds: list[list[int]] = []
        self.closed: list[str] = []
        self.changed = asyncio.Event()
        self.channel = Channel(sock, self._message, self._closed)

    def _message(self, message: Message, fds: list[int]) -> None:
        self.messages.append(message)
        self.fds.append(fds)
        self.changed.set()

    def _closed(self, reason: str) -> None:
        self.closed.append(reason)
        self.changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                self.changed.clear()
                await self.changed.wait()

    async def until_messages(self, count: int) -> list[Message]:
        await self.until(lambda: len(self.messages) >= count)
        return self.messages

    async def until_closed(self) -> list[str]:
        await self.until(lambda: bool(self.closed))
        return self.closed

    def drop(self) -> None:
        self.channel.close()
        for fd in itertools.chain(*self.fds):
            os.close(fd)


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run, and hold that not one descriptor is left over."""
    before = set(os.listdir("/proc/self/fd"))

    asyncio.run(test)

    assert set(os.listdir("/proc/self/fd")) <= before


def ends() -> tuple[End, End]:
    one, other = socket.socketpair()
    return End(one), End(other)


def small_buffers() -> tuple[socket.socket, socket.socket]:
    """A pair on which a message of some kilobytes is sent in several parts."""
    one, other = socket.socketpair()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the kernel makes it its least
    return one, other


def pipes(count: int) -> tuple[list[int], list[int]]:
    made = [os.pipe() for _ in range(count)]
    return [one for one, _ in made], [other for _, other in made]


def marks(fds: list[int]) -> list[bytes]:
    """What each pipe says; tells one descriptor from the other."""
    return [os.read(fd, 16) for fd in fds]


def test_messages_pass_in_both_directions() -> None:
    async def scenario() -> None:
        one, other = ends()

        assert one.channel.send(protocol.Adopt(1))
        assert other.channel.send(protocol.Release(2))

        assert await other.until_messages(1) == [protocol.Adopt(1)]
        assert await one.until_messages(1) == [protocol.Release(2)]
        one.drop()
        other.drop()

    run(scenario())


def test_descriptors_come_with_their_message_in_a_glued_stream() -> None:
    async def scenario() -> None:
        # given messages with and without descriptors, all sent before the first is read
        one, other = ends()
        readers, writers = pipes(3)
        for number, fd in enumerate(writers):
            os.write(fd, bytes([number]))
        sent: list[tuple[Message, list[int]]] = [
            (protocol.Release(0), []),
            (protocol.Adopt(1), readers[:1]),
            (protocol.Release(2), []),
            (protocol.Adopt(3), readers[1:]),
            (protocol.Release(4), []),
        ]
        for message, fds in sent:
            assert one.channel.send(message, fds)

        messages = await other.until_messages(len(sent))

        assert messages == [message for message, _ in sent]
        assert [marks(fds) for fds in other.fds] == [[], [b"\x00"], [], [b"\x01", b"\x02"], []]
        for fd in readers + writers:
            os.close(fd)
        one.drop()
        other.drop()

    run(scenario())


def test_descriptors_come_with_their_message_when_it_arrives_in_parts() -> None:
    async def scenario() -> None:
        # given a message cut in two, its rest glued to another one with descriptors
        raw, sock = socket.socketpair()
        readers, writers = pipes(2)
        for number, fd in enumerate(writers):
            os.write(fd, bytes([number]))
        first, second = encode(protocol.Adopt(0)), encode(protocol.Adopt(1))
        other = End(sock)

        socket.send_fds(raw, [first[:3]], readers[:1])
        await half_arrived(other)
        raw.send(first[3:])
        socket.send_fds(raw, [second], readers[1:])
        await other.until_messages(2)

        found = [marks(fds) for fds in other.fds]
        raw.close()
        for fd in readers + writers:
            os.close(fd)
        other.drop()
        assert found == [[b"\x00"], [b"\x01"]]

    run(scenario())


def test_descriptors_of_a_message_that_may_carry_none_go_to_nobody() -> None:
    async def scenario() -> None:
        # given a peer that sends a descriptor where none belongs, and then one that does
        raw, sock = socket.socketpair()
        readers, writers = pipes(2)
        for number, fd in enumerate(writers):
            os.write(fd, bytes([number]))
        other = End(sock)

        socket.send_fds(raw, [encode(protocol.Release(0))], readers[:1])
        socket.send_fds(raw, [encode(protocol.Adopt(1))], readers[1:])
        await other.until_messages(2)

        found = [marks(fds) for fds in other.fds]
        raw.close()
        for fd in readers + writers:
            os.close(fd)
        other.drop()
        assert found == [[], [b"\x01"]]

    run(scenario())


async def half_arrived(end: End) -> None:
    """Let the loop read until half a message waits."""
    async with asyncio.timeout(PATIENCE_S):
        while not end.channel.unfinished:
            await asyncio.sleep(0)


def test_received_descriptors_are_not_inherited_by_other_programs() -> None:
    async def scenario() -> None:
        one, other = ends()
        readers, writers = pipes(1)

        one.channel.send(protocol.Adopt(0), readers)
        await other.until_messages(1)

        inheritable = [os.get_inheritable(fd) for fd in other.fds[0]]
        for fd in readers + writers:
            os.close(fd)
        one.drop()
        other.drop()
        assert inheritable == [False]  # else a program an agent starts keeps the public socket

    run(scenario())


def test_as_many_descriptors_as_listen_addresses_may_pass_at_once() -> None:
    async def scenario() -> None:
        one, other = ends()
        readers, writers = pipes(MAX_FDS // 2)

        one.channel.send(protocol.Adopt(0), readers + writers)
        await other.until_messages(1)

        assert len(other.fds[0]) == MAX_FDS
        for fd in readers + writers:
            os.close(fd)
        one.drop()
        other.drop()

    run(scenario())


def test_more_descriptors_than_the_limit_close_the_channel() -> None:
    async def scenario() -> None:
        # given a peer that sends one descriptor too many
        raw, sock = socket.socketpair()
        readers, writers = pipes(MAX_FDS // 2 + 1)
        fds = readers + writers
        other = End(sock)

        socket.send_fds(raw, [encode(protocol.Adopt(0))], fds)

        assert await other.until_closed() == ["too many descriptors"]
        raw.close()
        for fd in fds:
            os.close(fd)
        other.drop()

    run(scenario())


def test_a_long_message_arrives_whole_in_parts() -> None:
    async def scenario() -> None:
        # given buffers smaller than a message
        a, b = small_buffers()
        one, other = End(a), End(b)

        for _ in range(5):
            assert one.channel.send(LONG)

        assert await other.until_messages(5) == [LONG] * 5
        one.drop()
        other.drop()

    run(scenario())


def test_queued_messages_keep_their_order_and_descriptors() -> None:
    async def scenario() -> None:
        # given a full socket, so that the next messages wait
        a, b = small_buffers()
        one = End(a)
        readers, writers = pipes(1)
        os.write(writers[0], b"mark")
        assert one.channel.send(LONG)
        for number in range(3):
            assert one.channel.send(protocol.Release(number))
        assert one.channel.send(protocol.Adopt(3), readers)
        os.close(readers[0])  # the channel has its own by now

        other = End(b)
        messages = await other.until_messages(5)

        assert messages[1:] == [*map(protocol.Release, range(3)), protocol.Adopt(3)]
        assert marks(other.fds[-1]) == [b"mark"]
        os.close(writers[0])
        one.drop()
        other.drop()

    run(scenario())


def test_a_peer_that_does_not_read_is_closed_at_the_limit() -> None:
    async def scenario() -> None:
        # given a peer that reads nothing
        a, silent = small_buffers()
        one = End(a)
        readers, writers = pipes(1)

        sent = 0
        while one.channel.send(LONG, readers if sent == 0 else []):
            sent += len(encode(LONG))
            assert sent < 2 * MAX_PENDING_BYTES

        assert sent > MAX_PENDING_BYTES - len(encode(LONG))
        assert one.closed == ["peer does not read"]
        assert not one.channel.send(LONG)
        for fd in (*readers, *writers):
            os.close(fd)
        silent.close()

    run(scenario())


def test_a_closed_channel_lets_go_of_queued_descriptors() -> None:
    async def scenario() -> None:
        a, silent = small_buffers()
        one = End(a)
        readers, writers = pipes(1)
        one.channel.send(LONG)
        one.channel.send(protocol.Adopt(0), readers)

        one.channel.close()

        for fd in (*readers, *writers):
            os.close(fd)
        silent.close()

    run(scenario())


def test_end_of_file_is_told_once() -> None:
    async def scenario() -> None:
        one, other = ends()
        one.channel.send(protocol.Adopt(1))

        one.channel.close("enough")
        one.channel.close("again")
        await other.until_closed()
        other.channel.close()

        assert one.closed == ["enough"]
        assert other.closed == ["end of file"]
        assert other.messages == [protocol.Adopt(1)]
        assert other.channel.closed

    run(scenario())


def test_a_bad_message_closes_the_channel_and_its_descriptors() -> None:
    async def scenario() -> None:
        raw, sock = socket.socketpair()
        readers, writers = pipes(1)
        other = End(sock)

        socket.send_fds(raw, [b"\x00\x00\x00\x01\xc0"], readers)

        (reason,) = await other.until_closed()
        assert reason.startswith("protocol:")
        assert other.messages == []
        with ExitStack() as stack:
            for fd in (*readers, *writers):
                stack.callback(os.close, fd)
            stack.callback(raw.close)

    run(scenario())


def test_nothing_is_handed_on_after_a_close() -> None:
    async def scenario() -> None:
        # given two messages that arrive together, the first of which makes the receiver close
        raw, sock = socket.socketpair()
        seen: list[Message] = []
        closed = asyncio.Event()

        def received(message: Message, _fds: list[int]) -> None:
            seen.append(message)
            channel.close()

        channel = Channel(sock, received, lambda _: closed.set())
        raw.send(encode(protocol.Adopt(1)) + encode(protocol.Adopt(2)))
        async with asyncio.timeout(PATIENCE_S):
            await closed.wait()

        assert seen == [protocol.Adopt(1)]
        raw.close()

    run(scenario())


def test_one_read_is_bounded() -> None:
    async def scenario() -> None:
        # given a peer that has sent more than is read at once
        one, other = ends()
        count = 2 * READ_BYTES // len(encode(LONG)) + 1
        for _ in range(count):
            one.channel.send(LONG)

        other.channel._readable()

        assert len(other.messages) == READ_BYTES // len(encode(LONG))
        assert await other.until_messages(count) == [LONG] * count
        one.drop()
        other.drop()

    run(scenario())
