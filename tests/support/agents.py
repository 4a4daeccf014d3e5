"""Agents for tests: `tests.support.agents:app` does what the caller asks for by `/whip?do=...`."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict

import numpy as np

from tests.support.pcm_echo import RATE, echo
from voicerelay import App, Session
from voicerelay.transceiver.voice.opus import Pcm

CHIRP_S = 2.0

app = App()


def chirp(seconds: float = CHIRP_S, rate: int = RATE) -> Pcm:
    """A tone that rises from 300 to 2000 Hz: alike itself in one place only."""
    moments = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * (300 * moments + 1700 / (2 * seconds) * moments**2)
    return (12_000 * np.sin(phase)).astype(np.int16)


@app.session
async def agent(session: Session) -> None:
    """The acts by name; without one it converses."""
    await ACTS[session.request.query.get("do", "converse")](session)


async def converse(session: Session) -> None:
    """Say back what is heard, and write back what is written, louder."""
    async with asyncio.TaskGroup() as group:
        group.create_task(echo(session))
        async for message in session.messages():
            session.send_message(message.data.upper(), message.channel)


async def say_chirp(session: Session) -> None:
    """And hang up."""
    await session.play(chirp(), RATE)
    await session.drain()


async def be_interrupted(session: Session) -> None:
    """Talk until any message comes, then say how much was said."""
    talking = asyncio.create_task(session.play(chirp(30), RATE))
    async for message in session.messages():
        played_ms = session.interrupt()
        await talking
        session.send_message(json.dumps({"ms": played_ms}), message.channel)


async def count(session: Session) -> None:
    """Hear, and say on demand how much it was."""
    heard = 0

    async def hear() -> None:
        nonlocal heard
        async for _ in session.listen(rate=16_000):
            heard += 1

    async with asyncio.TaskGroup() as group:
        group.create_task(hear())
        async for message in session.messages():
            told = asdict(session.stats()) | {"heard": heard}
            session.send_message(json.dumps(told), message.channel)


async def tell_request(session: Session) -> None:
    """Text is answered by what is known of the request, bytes by themselves."""
    request = session.request
    async for message in session.messages():
        if isinstance(message.data, bytes):
            session.send_message(message.data[::-1], message.channel)
            continue
        told = {
            "path": request.path,
            "query": dict(request.query),
            "tenant": request.headers["x-tenant"],
        }
        session.send_message(json.dumps(told), message.channel)


async def fail(session: Session) -> None:
    """At the first message, in the way it says."""
    async for message in session.messages():
        if message.data == "exit":
            raise SystemExit(3)
        if message.data == "cancel":
            raise asyncio.CancelledError
        raise LookupError("a mistake of the user")


ACTS: dict[str, Callable[[Session], Awaitable[None]]] = {
    "converse": converse,
    "echo": echo,
    "chirp": say_chirp,
    "barge-in": be_interrupted,
    "count": count,
    "request": tell_request,
    "fail": fail,
}
