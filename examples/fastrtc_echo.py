"""An unmodified FastRTC Stream that says back what it hears: `voicerelay start examples.fastrtc_echo:app`.

Needs `pip install "voicerelay[asgi]" fastrtc`. Clients POST to /webrtc/offer, as FastRTC's do.
"""

import asyncio
from typing import Any

import numpy as np
from fastapi import FastAPI
from fastrtc import AsyncStreamHandler, Stream

import voicerelay.aiortc

voicerelay.aiortc.install()  # the one line; the rest is any FastRTC app

CALLS = 100  # a transceiver; FastRTC's own default is one


class Echo(AsyncStreamHandler):
    """Keeps what comes in until it goes out."""

    def __init__(self) -> None:
        super().__init__(input_sample_rate=48000, output_sample_rate=48000)
        self.heard: asyncio.Queue[tuple[int, np.ndarray]] = asyncio.Queue()

    def copy(self) -> "Echo":
        return Echo()

    async def start_up(self) -> None: ...

    async def receive(self, frame: tuple[int, np.ndarray]) -> None:
        self.heard.put_nowait(frame)

    async def emit(self) -> Any:
        return await self.heard.get()

    async def shutdown(self) -> None: ...


stream = Stream(Echo(), modality="audio", mode="send-receive", concurrency_limit=CALLS)
app = FastAPI()
stream.mount(app)
