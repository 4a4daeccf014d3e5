"""An agent for tests of clients: says back what it hears and what it is sent, and leaves when told "bye".

Who is silent for half a second hears a hum, until he speaks: that is barge-in, and he is told of it.
"""

import asyncio
import contextlib
import json
from typing import Any

import numpy as np

from voicerelay import App, Session, SessionClosed

RATE = 24_000
HUM_HZ = 500
LOUD = 500  # RMS
TURN_FRAMES = 25
HUM = (8000 * np.sin(np.arange(10 * RATE) * (2 * np.pi * HUM_HZ / RATE))).astype(np.int16)

app = App()


@app.session
async def talk(session: Session) -> None:
    """Who only listens (WHEP) hears a hum."""
    if session.request.path == "/whep":
        while True:
            await session.play(HUM, rate=RATE)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_read(session))
        await _converse(session, tasks)


async def _converse(session: Session, tasks: asyncio.TaskGroup) -> None:
    silent = 0
    humming: asyncio.Task[None] | None = None
    async for frame in session.listen(rate=RATE):
        loud = np.sqrt((frame.astype(np.float64) ** 2).mean()) > LOUD
        silent = 0 if loud else silent + 1
        if silent == TURN_FRAMES:
            humming = tasks.create_task(session.play(HUM, rate=RATE))
        elif loud and humming is not None:
            humming = None
            _tell(session, {"interrupted_after_ms": session.interrupt()})
        if humming is None:
            await session.play(frame, rate=RATE)


async def _read(session: Session) -> None:
    turn = 0
    async for message in session.messages():
        if "bye" in str(message.data):
            session.close()
            return
        turn += 1
        request = session.request
        told = {"turn": turn, "body": request.body, "subject": request.subject}
        _tell(session, told, message.channel)


def _tell(session: Session, data: dict[str, Any], channel: str | None = None) -> None:
    """As RTVI has it; a client without a data channel is not told."""
    message = {"label": "rtvi-ai", "type": "server-message", "id": "1", "data": data}
    with contextlib.suppress(SessionClosed, ValueError):
        session.send_message(json.dumps(message), channel)
