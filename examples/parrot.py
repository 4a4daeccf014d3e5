"""Repeats everything one second later, as Opus packets: `voicerelay start examples.parrot:app`."""

from collections import deque

from voicerelay import App, AudioPacket, Session

DELAY_PACKETS = 50  # of 20 ms

app = App()


@app.session
async def parrot(session: Session) -> None:
    """Keep a second of the caller's Opus packets and say the oldest: nothing is decoded."""
    heard: deque[AudioPacket] = deque()
    async for packet in session.packets():
        heard.append(packet)
        if len(heard) > DELAY_PACKETS:
            session.send(heard.popleft())
