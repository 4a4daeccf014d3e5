"""The default agent: says back what it hears."""

from voicerelay import App, Session

app = App()


@app.session
async def echo(session: Session) -> None:
    """Return every packet as it came, without decoding it."""
    async for packet in session.packets():
        session.send(packet)
