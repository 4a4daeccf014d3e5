"""Serves an ASGI app with uvicorn on a transceiver's two sockets; needs the extra `asgi`."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn

from voicerelay.transceiver.settings import TransceiverSettings
from voicerelay.transceiver.signalling.asgi import OwnerFirst
from voicerelay.transceiver.signalling.front import HTTP_BACKLOG, FrontError, bind

SHUTDOWN_S = 1
APP_FAILED = "APP: its own start-up (ASGI lifespan) failed"


class AsgiServer(uvicorn.Server):
    """uvicorn in our event loop: signals stay with the transceiver, `start` returns when it serves."""

    def __init__(self, app: OwnerFirst, settings: TransceiverSettings) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            backlog=HTTP_BACKLOG,
            timeout_graceful_shutdown=SHUTDOWN_S,
        )
        super().__init__(config)
        self._settings = settings
        self._serving = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._serving.set()

    async def start(self) -> None:
        tcp, unix = bind(self._settings)
        self._task = asyncio.create_task(self._run([*tcp, unix]))
        serving = asyncio.create_task(self._serving.wait())
        await asyncio.wait([self._task, serving], return_when=asyncio.FIRST_COMPLETED)
        if self._serving.is_set():
            return
        serving.cancel()
        for sock in (*tcp, unix):
            sock.close()
        await self._task
        raise FrontError(APP_FAILED)

    async def stop(self) -> None:
        """Finish what is being answered, for a moment; then the app's own shutdown."""
        self.should_exit = True
        if self._task is not None and self._serving.is_set():
            await self._task

    async def _run(self, sockets: list[socket.socket]) -> None:
        try:
            await self.serve(sockets)
        except SystemExit as exc:  # so uvicorn, having logged why, says that the lifespan failed
            raise FrontError(APP_FAILED) from exc
