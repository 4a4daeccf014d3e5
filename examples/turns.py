"""Listens until you stop, answers with what you said, lets you interrupt: `voicerelay start examples.turns:app`.

Needs the extra "vad": pip install "voicerelay[vad]".
"""

import asyncio
import contextlib
from collections import deque

import numpy as np

from voicerelay import App, Session, SessionClosed

RATE = 16_000
MAX_TURN_FRAMES = 1500  # 30 s
LEAD_IN_FRAMES = 15  # before the detector was sure

app = App()


@app.session
async def turns(session: Session) -> None:
    """One task collects, the other follows the turns, a third answers."""
    turn: deque[np.ndarray] = deque(maxlen=MAX_TURN_FRAMES)
    collecting = asyncio.create_task(_collect(session, turn))
    answering: asyncio.Task[None] | None = None
    try:
        async for change in session.speech():
            if change.started:
                session.interrupt()  # barge-in
                if answering is not None:
                    answering.cancel()
                lead_in = list(turn)[-LEAD_IN_FRAMES:]
                turn.clear()
                turn.extend(lead_in)
            elif turn:
                answering = asyncio.create_task(_answer(session, np.concatenate(turn)))
    finally:
        collecting.cancel()
        if answering is not None:
            answering.cancel()


async def _collect(session: Session, turn: deque[np.ndarray]) -> None:
    async for frame in session.listen(rate=RATE):
        turn.append(frame)


async def _answer(session: Session, said: np.ndarray) -> None:
    with contextlib.suppress(SessionClosed):
        await session.play(said, rate=RATE)
