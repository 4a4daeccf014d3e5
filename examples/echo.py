"""Says back what it hears: `voicerelay start examples.echo:app` (the same as the built-in default)."""

from voicerelay import App, Session

app = App()


@app.session
async def echo(session: Session) -> None:
    """One task a call; it ends with the call."""
    async for frame in session.listen(rate=24_000):
        await session.play(frame, rate=24_000)
