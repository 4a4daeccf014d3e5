"""An agent for tests of clients: says back what it hears and what it is sent, and leaves when told "bye"."""

import asyncio
import json

import numpy as np

from voicerelay import App, Session

RATE = 24_000
HUM_HZ = 500

app = App()


@app.session
async def talk(session: Session) -> None:
    """Who only listens (WHEP) hears a hum."""
    if session.request.path == "/whep":
        phase = np.arange(RATE) * (2 * np.pi * HUM_HZ / RATE)
        while True:
            await session.play((8000 * np.sin(phase)).astype(np.int16), rate=RATE)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_read(session))
        async for frame in session.listen(rate=RATE):
            await session.play(frame, rate=RATE)


async def _read(session: Session) -> None:
    turn = 0
    async for message in session.messages():
        if "bye" in str(message.data):
            session.close()
            return
        turn += 1
        told = {"turn": turn, "body": session.request.body, "subject": session.request.subject}
        session.send_message(
            json.dumps({"label": "rtvi-ai", "type": "server-message", "id": "1", "data": told}),
            message.channel,
        )
