"""A caller with a voice, an ear and a data channel: what came back is PCM, and may be compared."""

import asyncio
import itertools
import json
from collections.abc import Callable
from typing import Any

import aiohttp
import numpy as np
from aiortc import RTCDataChannel

from tests.support.client import Call
from voicerelay.transceiver.voice.opus import Decoder, Pcm

PATIENCE_S = 20.0


class VoiceCall(Call):
    """`listen_rate`, in Hz, is what `heard` decodes to."""

    listen_rate = 24_000
    channel: RTCDataChannel
    _answers: "asyncio.Queue[str | bytes]"

    async def connect(
        self,
        http: aiohttp.ClientSession,
        mangle: Callable[[str], str] = str,
        mangle_answer: Callable[[str], str] = str,
    ) -> None:
        self._answers = asyncio.Queue()
        self.channel = self.pc.createDataChannel("chat")
        opened = asyncio.Event()
        self.channel.on("open", opened.set)
        self.channel.on("message", self._answers.put_nowait)
        await super().connect(http, mangle, mangle_answer)
        async with asyncio.timeout(PATIENCE_S):
            await opened.wait()

    async def ask(self, data: str | bytes) -> str | bytes:
        """Send over the data channel, and wait for the answer."""
        self.channel.send(data)
        async with asyncio.timeout(PATIENCE_S):
            return await self._answers.get()

    async def ask_figures(self) -> dict[str, Any]:
        """The JSON that the agent answers with."""
        found: dict[str, Any] = json.loads(await self.ask("?"))
        return found

    async def heard_packets(self, count: int) -> None:
        """Wait until so many have come."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.received) < count:
                await asyncio.sleep(0.02)

    def steps(self) -> list[tuple[int, int]]:
        """Sequence and timestamp from each packet to the next, in the order they were sent."""
        sent = sorted(
            ((p.sequence - self.received[0].sequence + 0x8000) & 0xFFFF, p.timestamp)
            for p in self.received
        )
        return [(b[0] - a[0], (b[1] - a[1]) & 0xFFFFFFFF) for a, b in itertools.pairwise(sent)]

    def heard(self) -> Pcm:
        """All of it in the order it was sent, without the pauses that a busy machine makes."""
        decoder, first = Decoder(self.listen_rate), self.received[0].sequence
        packets = sorted(self.received, key=lambda p: (p.sequence - first + 0x8000) & 0xFFFF)
        return np.concatenate([decoder.decode(packet.payload) for packet in packets])


def alignment(heard: Pcm, said: Pcm) -> tuple[float, int]:
    """Correlation (-1..1) where they are most alike, and by how many samples `heard` is later."""
    size = 1 << (len(heard) + len(said)).bit_length()
    a, b = heard.astype(float), said.astype(float)
    products = np.fft.irfft(np.fft.rfft(a, size) * np.conj(np.fft.rfft(b, size)), size)
    lag = int(products.argmax())
    if lag >= len(heard):
        lag -= size
    start, end = max(0, lag), min(len(a), lag + len(b))
    a, b = a[start:end], b[start - lag : end - lag]
    return float(a @ b / np.sqrt((a @ a) * (b @ b))), lag


def alignments(heard: Pcm, said: Pcm, window: int) -> list[float]:
    """The same for windows of so many samples: a pause between two of them does no harm."""
    starts = range(0, len(heard) - window + 1, window)
    return [alignment(heard[start : start + window], said)[0] for start in starts]
