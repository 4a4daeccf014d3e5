"""A bounded hand-over from the packet path to a reading task; what is not read in time is dropped and counted."""

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Unread(Generic[T]):
    """An asynchronous iterator over what is `put`, until `close`.

    At most `limit` wait; then the oldest gives way, or with `keep_oldest` the new one. Several
    tasks may read; each item goes to one of them.
    """

    __slots__ = ("_closed", "_items", "_keep_oldest", "_limit", "_waiters", "dropped")

    def __init__(self, limit: int, keep_oldest: bool = False) -> None:
        self._items: deque[T] = deque()
        self._limit = limit
        self._keep_oldest = keep_oldest
        self._waiters: list[asyncio.Future[None]] = []
        self._closed = False
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._items)

    def waiting(self) -> tuple[T, ...]:
        """What was put and not read, oldest first."""
        return tuple(self._items)

    def put(self, item: T) -> None:
        """Never blocks."""
        if self._closed:
            return
        if len(self._items) >= self._limit:
            self.dropped += 1
            if self._keep_oldest:
                return
            self._items.popleft()
        self._items.append(item)
        if self._waiters:
            self._wake()

    def close(self) -> None:
        """What waits can still be read; then the iteration ends."""
        self._closed = True
        self._wake()

    def discard(self) -> None:
        """The iteration ends at once; what waits is dropped."""
        self.dropped += len(self._items)
        self._items.clear()
        self.close()

    def __aiter__(self) -> "Unread[T]":
        return self

    async def __anext__(self) -> T:
        while not self._items:
            if self._closed:
                raise StopAsyncIteration
            # One for each reader: a reader that is cancelled cancels what it waits for.
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except BaseException:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                raise
        return self._items.popleft()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():  # else its reader was cancelled
                waiter.set_result(None)
