"""TCP connections of clients: a bounded number, and each brings a request in time; aiohttp sees to neither."""

import asyncio
import logging
import resource
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from voicerelay.shm.counters import Block, TransceiverCounter

MAX_CONNECTIONS: Final = (
    2048  # of a transceiver, sidebands included; never more than half its descriptors
)
FIRST_REQUEST_S: Final = 10.0  # for the head of the first one; later ones: KEEP_ALIVE_S
KEEP_ALIVE_S: Final = 30.0  # after an answer, until the head of the next request is complete

log = logging.getLogger("voicerelay.http")

Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Connections:
    """Those of one transceiver. When there are too many, the oldest that has asked nothing yet makes room."""

    def __init__(self, block: Block) -> None:
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.log = _OursOnly(block)
        self.most = min(MAX_CONNECTIONS, max(1, descriptors // 2))
        self._block = block
        self._open: set[_Connection] = set()
        self._silent: dict[asyncio.Protocol, _Connection] = {}  # no request yet, oldest first

    def __len__(self) -> int:
        return len(self._open)

    def protocol(self, server: web.Server) -> "_Connection":
        """For `create_server`: the server's own protocol, with a deadline."""
        return _Connection(self, server())

    @web.middleware
    async def middleware(self, request: web.Request, handler: Next) -> web.StreamResponse:
        """Outermost: whoever has brought a whole head may stay."""
        if self._silent and request.protocol is not None:
            self._heard(request.protocol)
        return await handler(request)

    def _heard(self, inner: asyncio.Protocol) -> None:
        connection = self._silent.pop(inner, None)
        if connection is not None:
            connection.deadline.cancel()

    # ---- from the connections ----------------------------------------------------------------

    def _made(self, connection: "_Connection") -> bool:
        """False: there is no room."""
        if len(self._open) >= self.most:
            self._block.add(TransceiverCounter.HTTP_CONNECTIONS_REFUSED)
            oldest = next(iter(self._silent.values()), None)
            if oldest is None:
                return False
            oldest.transport.abort()
            self._lost(oldest)
        self._open.add(connection)
        self._silent[connection.inner] = connection
        return True

    def _late(self, connection: "_Connection") -> None:
        self._block.add(TransceiverCounter.HTTP_CLIENTS_TOO_SLOW)
        connection.transport.abort()

    def _lost(self, connection: "_Connection") -> None:
        self._open.discard(connection)
        self._heard(connection.inner)


class _OursOnly(logging.LoggerAdapter[logging.Logger]):
    """What aiohttp logs, less what clients do wrong: it would write their headers down, a key among them."""

    def __init__(self, block: Block) -> None:
        super().__init__(log)
        self._block = block

    def log(self, level: int, msg: object, *args: object, **how: Any) -> None:
        found = how.get("exc_info")
        if isinstance(found if found is not True else sys.exc_info()[1], _THEIR_FAULT):
            self._block.add(TransceiverCounter.HTTP_REQUESTS_MALFORMED)
        else:
            super().log(level, msg, *args, **how)


_THEIR_FAULT: Final = (HttpProcessingError, web.RequestPayloadError)


class _Connection(asyncio.Protocol):
    """Passes everything on to the HTTP server's protocol."""

    transport: asyncio.Transport
    deadline: asyncio.TimerHandle

    def __init__(self, all_of_them: Connections, inner: asyncio.Protocol) -> None:
        self.inner = inner
        self._all = all_of_them
        self._taken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        loop = asyncio.get_running_loop()
        self.deadline = loop.call_later(FIRST_REQUEST_S, self._all._late, self)
        self._taken = self._all._made(self)
        if self._taken:
            self.inner.connection_made(transport)
        else:
            self.deadline.cancel()
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._all._lost(self)
        if self._taken:
            self.inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._taken:
            self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self.inner.eof_received() if self._taken else None

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()
