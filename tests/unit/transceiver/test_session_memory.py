"""What an ended call leaves behind: nothing, and nothing that waits for the collector, which seldom comes."""

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from tests.support.voices import numbered, speech
from tests.unit.transceiver.test_session import OPUS, WAIT_S, host, talking, until
from voicerelay.transceiver.agent import Session
from voicerelay.transceiver.voice.opus import FRAME_S
from voicerelay.transceiver.voice.rtp import build_rtp

RATE = 16_000


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("by", ["operator", "agent"])
def test_an_ended_call_goes_with_its_last_reference(
    monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    # given a call that has heard and spoken PCM, with a codec each way
    heard: list[int] = []

    async def converse(session: Session) -> None:
        await session.play(speech(0.1, RATE), RATE)
        async for _ in session.listen(RATE):
            heard.append(1)
            if by == "agent" and len(heard) == 3:
                return

    async def run() -> None:
        async with host() as here:
            session, client = await talking(here, monkeypatch, converse)
            for number in range(3):
                client.send(build_rtp(numbered(number)._replace(payload_type=OPUS)))
                await asyncio.sleep(FRAME_S / 10)

            # when it ends
            if by == "operator":
                session.end("the test")
            async with asyncio.timeout(WAIT_S):
                await session.ended.wait()
            await asyncio.sleep(0)
            here.sessions.clear()
            parts = [
                session,
                session._hearing,
                session._speaking,
                session._media,
                session._reach,
                session._speaking.outbound,
            ]
            left = [weakref.ref(part) for part in parts if type(part).__weakrefoffset__]
            assert left
            del session, parts

            # then the collector has nothing to do
            await until(lambda: all(part() is None for part in left))

    asyncio.run(run())
