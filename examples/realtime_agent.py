"""A Python agent for OpenAI Realtime clients: `voicerelay start examples.realtime_agent:app`.

Answers each `response.create` with a tone, and asks the client's first tool, if it has one, how long.
"""

import json

import numpy as np

from voicerelay import App, RealtimeSession, Session

RATE = 24_000
TONE_HZ = 600

app = App()


@app.session
async def agent(session: Session) -> None:
    """session.update is answered by itself, and interruptions need nothing here."""
    realtime = RealtimeSession.of(session)
    seconds: float | None = None
    async for event in realtime.events():
        if event["type"] != "response.create":
            continue
        tools = realtime.config.get("tools", [])
        if tools and seconds is None:
            answer = await realtime.call(tools[0]["name"], {"question": "for how many seconds?"})
            seconds = float(json.loads(answer))
            continue  # a client that has given its output asks again
        seconds = seconds or 1.0
        moments = np.arange(round(seconds * RATE)) / RATE
        pcm = (np.sin(2 * np.pi * TONE_HZ * moments) * 8000).astype(np.int16)
        await realtime.say(pcm, RATE, transcript=f"{seconds} s of {TONE_HZ} Hz")
        seconds = None
