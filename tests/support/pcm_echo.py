"""Agents for tests of the voice path: `tests.support.pcm_echo:app` says back what it hears, decoded."""

from voicerelay import App, Session

RATE = 24_000

app = App()


@app.session
async def echo(session: Session) -> None:
    """PCM in, PCM out."""
    async for frame in session.listen(rate=RATE):
        await session.play(frame, rate=RATE)
