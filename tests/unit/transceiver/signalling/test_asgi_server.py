"""uvicorn inside a transceiver: the app is started before it is served, and stopped after."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.unit.transceiver.signalling.test_asgi import two
from voicerelay.transceiver.settings import TransceiverSettings
from voicerelay.transceiver.signalling.asgi import OwnerFirst
from voicerelay.transceiver.signalling.asgi_server import AsgiServer
from voicerelay.transceiver.signalling.front import FrontError


def test_the_app_is_started_before_it_is_served_and_stopped_after() -> None:
    async def run() -> None:
        async with two() as here:
            app = here.ours.app
            assert (app.began, app.stopped) == (True, False)
        assert app.stopped

    asyncio.run(run())


def test_an_app_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    async def run() -> None:
        settings = TransceiverSettings(str(tmp_path), 0, "x:app", "127.0.0.1", 0, [], 1)
        around: Any = None
        server = AsgiServer(OwnerFirst(broken, around), settings)

        with pytest.raises(FrontError, match="start-up"):
            await server.start()
        await server.stop()

    asyncio.run(run())
