"""Computes for long on what it hears, in other processes: `voicerelay start examples.heavy:app`.

An agent that holds the event loop holds every call of its transceiver. What needs the processor for more than
a millisecond and does not release the GIL belongs into a process of its own; the pool is shared by all calls.
"""

import asyncio
import multiprocessing
import os
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor

import numpy as np

import voicerelay
from voicerelay import App, Session

RATE = 16_000
CHUNK_FRAMES = 25  # of 20 ms: half a second a job
MAX_JOBS = 4  # of a call, under way; a pool that cannot keep up makes the agent read more slowly
WORKERS = 2


def begin() -> None:
    """What a worker does first."""
    # A transceiver is pinned to a core, and what it starts is born there.
    voicerelay.unpin()
    # It may be killed, and then nobody else ends its workers.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


# Made once, at import; its processes begin with the first job. "spawn": a transceiver has threads and sockets.
pool = ProcessPoolExecutor(
    WORKERS, mp_context=multiprocessing.get_context("spawn"), initializer=begin
)
app = App()


def robot(said: np.ndarray) -> np.ndarray:
    """The work; runs in a worker, so it is a function of a module and takes and gives plain data."""
    moments = np.arange(len(said)) / RATE
    return (said * np.sin(2 * np.pi * 60 * moments)).astype(np.int16)


@app.session
async def heavy(session: Session) -> None:
    """One task hears and gives work, the other one says the results in their order."""
    loop = asyncio.get_running_loop()
    jobs: asyncio.Queue[asyncio.Future[np.ndarray] | None] = asyncio.Queue(MAX_JOBS)

    async def hear() -> None:
        async for said in _chunks(session):
            await jobs.put(loop.run_in_executor(pool, robot, said))
        await jobs.put(None)

    async with asyncio.TaskGroup() as group:
        group.create_task(hear())
        while (job := await jobs.get()) is not None:
            await session.play(await job, rate=RATE)


async def _chunks(session: Session) -> AsyncIterator[np.ndarray]:
    frames: list[np.ndarray] = []
    async for frame in session.listen(rate=RATE):
        frames.append(frame)
        if len(frames) == CHUNK_FRAMES:
            yield np.concatenate(frames)
            frames.clear()
