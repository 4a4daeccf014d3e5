"""Our agents in the bench: `bench.voice.agents:echo`, `:fresh` and `:ears`."""

import asyncio
import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.voice.said import RATE, looped
from voicerelay import App, Session, SessionClosed
from voicerelay.transceiver.voice import opus, outbound
from voicerelay.transceiver.voice.pacer import Pacer

CHUNK_S = 0.1  # as speech synthesizers give
FIGURES_S = 0.5
# What is compared is complexity 5; under load the product would encode more cheaply.
outbound.COMPLEXITY_STEPS = (opus.DEFAULT_COMPLEXITY,) * 4  # type: ignore[misc]

echo, fresh, ears = App(), App(), App()
_watchers: set[asyncio.Task[None]] = set()


async def _tell(pacer: Pacer) -> None:
    """The pacer's own figures, a line twice a second, for whoever started the bench."""
    path = Path(os.environ["VOICE_BENCH_FIGURES"])
    while True:
        await asyncio.sleep(FIGURES_S)
        line = {
            "at": time.monotonic(),
            "p50_ms": pacer.lateness(0.5) * 1000,
            "p99_ms": pacer.lateness(0.99) * 1000,
            "level": pacer.load_level,
            "skipped": pacer.frames_skipped,
        }
        with path.open("a") as file:  # noqa: ASYNC230 - of no weight
            file.write(json.dumps(line) + "\n")


def _watch(session: Session) -> None:
    if not _watchers and "VOICE_BENCH_FIGURES" in os.environ:
        hidden: Any = session
        task = asyncio.get_running_loop().create_task(_tell(hidden._speaking._pacer))
        _watchers.add(task)


@echo.session
async def say_back(session: Session) -> None:
    """PCM in, PCM out."""
    _watch(session)
    async for frame in session.listen(rate=RATE):
        await session.play(frame, rate=RATE)


@fresh.session
async def converse(session: Session) -> None:
    """Hear everything, and say something of its own all the time, from the first frame heard on."""
    _watch(session)
    talking: asyncio.Task[None] | None = None
    async for _ in session.listen(rate=RATE):
        if talking is None:
            talking = asyncio.get_running_loop().create_task(_talk(session))


async def _talk(session: Session) -> None:
    chunk = round(RATE * CHUNK_S)
    start = chunk * (hash(session.id) % 100)
    with contextlib.suppress(SessionClosed):
        while True:
            await session.play(looped(start, chunk), rate=RATE)
            start += chunk


@ears.session
async def keep(session: Session) -> None:
    """Keep each frame and when it came, for loss.py."""
    times, frames = [], []
    try:
        async for frame in session.listen(rate=RATE):
            times.append(time.monotonic())
            frames.append(frame)
    finally:
        stats = session.stats()
        np.savez(
            Path(os.environ["VOICE_BENCH_EARS"]) / session.id,
            times=np.array(times),
            frames=np.array(frames),
            recovered_ms=stats.recovered_ms,
            concealed_ms=stats.concealed_ms,
            silent_ms=stats.silent_ms,
        )
