"""Whole calls judged by what is heard: PCM agents behind real processes, good networks and bad ones."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import numpy as np
import psutil
import pytest

from tests.support.agents import CHIRP_S, chirp
from tests.support.client import PACKET_S
from tests.support.impair import Impairment
from tests.support.pcm_echo import RATE
from tests.support.proxy import proxy
from tests.support.server import Server, server
from tests.support.voice_call import PATIENCE_S, VoiceCall, alignment, alignments
from tests.support.voices import decoded, payloads, speech
from voicerelay.transceiver.voice.opus import Pcm

pytestmark = pytest.mark.system

ALIKE = 0.9  # a codec lies between
LOUD = 1000  # of 32767
WINDOW = RATE // 2  # samples
FEW = 5  # frames under way when somebody is interrupted
SEED = 11


@pytest.fixture(scope="module")
def running(plane_options: list[str]) -> Iterator[Server]:
    with server(
        relays=1, transceivers=2, app="tests.support.agents:app", extra=plane_options
    ) as started:
        yield started
    assert "RuntimeWarning" not in started.output


@asynccontextmanager
async def calling(
    running: Server, do: str, mangle_answer: Callable[[str], str] = str
) -> AsyncIterator[VoiceCall]:
    """A connected call with an agent that does this."""
    call = VoiceCall(running.http_url, query=f"?do={do}&who=me", headers={"X-Tenant": "7"})
    async with aiohttp.ClientSession() as http:
        try:
            await call.connect(http, mangle_answer=mangle_answer)
            yield call
        finally:
            await call.close()


def as_heard(said: list[bytes]) -> Pcm:
    """What an agent hears of these packets, when none is missing."""
    return np.concatenate(decoded(said, RATE))


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await scenario()

    asyncio.run(main())


def test_pcm_that_is_said_back_is_what_was_said_fifty_times_a_second(running: Server) -> None:
    said = payloads(speech(3.0, RATE), RATE)

    async def scenario() -> None:
        async with calling(running, "echo") as call:
            await call.say(said)
            await call.heard_packets(call.sent - 2)

            alike = alignments(call.heard(), as_heard(said), WINDOW)
            steps = call.steps()
            assert np.median(alike) > ALIKE
            assert min(alike) > 0.7
            assert len(call.received) == pytest.approx(call.sent, abs=2)
            assert {sequence for sequence, _ in steps} == {1}
            # A machine that is busy with other things makes pauses, but of whole frames.
            assert {ticks % 960 for _, ticks in steps} == {0}
            assert sum(ticks == 960 for _, ticks in steps) > 0.5 * len(steps)

    run(scenario)


def test_what_an_agent_plays_is_heard_and_then_the_call_ends(running: Server) -> None:
    async def scenario() -> None:
        async with calling(running, "chirp") as call:
            async with asyncio.timeout(PATIENCE_S):
                await call.closed.wait()

            heard = call.heard()
            alike, _ = alignment(heard, chirp())
            assert alike > ALIKE
            assert len(call.received) == CHIRP_S / PACKET_S
            assert len(heard) == CHIRP_S * RATE

    run(scenario)


def test_an_interrupted_agent_is_silent_at_once_and_knows_what_was_heard(running: Server) -> None:
    async def scenario() -> None:
        async with calling(running, "barge-in") as call:
            await call.heard_packets(40)

            before = len(call.received)
            told = await call.ask_figures()
            after = len(call.received)
            await asyncio.sleep(0.5)

            assert len(call.received) - after <= FEW
            assert abs(told["ms"] / 20 - len(call.received)) <= 1
            assert len(call.received) >= before

    run(scenario)


def test_text_bytes_and_the_request_reach_the_agent_at_whatever_transceiver(
    running: Server,
) -> None:
    async def scenario() -> None:
        owners: set[int] = set()
        async with asyncio.timeout(PATIENCE_S), AsyncExitStack() as stack:
            while len(owners) < 2:  # three calls, unless one transceiver has its hands full
                if len(owners) == 1:
                    await asyncio.sleep(0.1)
                call = await stack.enter_async_context(calling(running, "request"))
                assert await call.ask(b"\x00\x01\x02") == b"\x02\x01\x00"
                told = json.loads(await call.ask("who am I?"))
                assert told == {
                    "path": "/whip",
                    "query": {"do": "request", "who": "me"},
                    "tenant": "7",
                }
                owners.add(await owner(call))

    run(scenario)


async def owner(call: VoiceCall) -> int:
    where = call.resource.replace("/whip/", "/sessions/")
    async with aiohttp.ClientSession() as http, http.get(call.url + where) as response:
        return int((await response.json())["transceiver"])


@pytest.mark.parametrize("way", ["raise", "exit", "cancel"])
def test_a_failing_agent_ends_its_call_and_no_other(running: Server, way: str) -> None:
    async def scenario() -> None:
        async with (
            calling(running, "fail") as one,
            calling(running, "request") as two,
            calling(running, "request") as three,
        ):
            since = len(running.output)
            one.channel.send(way)
            async with asyncio.timeout(PATIENCE_S):
                await one.closed.wait()

            assert await two.ask(b"ab") == await three.ask(b"ab") == b"ba"
            reason = "the agent was cancelled" if way == "cancel" else "the agent failed"
            # A line of a reason that was just told may be held back.
            await until(lambda: f"ended: {reason}" in running.output)
            assert running.output[since:].count("ended: ") <= 1

    run(scenario)


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not happened():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("how", "recovered"),
    [
        (Impairment(loss=0.05, delay_s=0.01), 0.5),
        (Impairment(loss=0.05, burst=2, jitter_s=0.03, duplicate=0.02, reorder=0.02), 0.1),
    ],
    ids=["random", "bursts, jitter, duplicates, reordering"],
)
def test_with_loss_hardly_a_slot_stays_empty(
    running: Server, how: Impairment, recovered: float
) -> None:
    said = payloads(speech(8.0, RATE), RATE, fec=True)

    async def scenario() -> None:
        async with (
            proxy(("127.0.0.1", running.port), SEED) as between,
            calling(running, "count", between.rewrite) as call,
        ):
            # given a call whose voice suffers on its way, but for its first and last packets
            await call.say(said[:5])
            between.impair(to_server=how)
            await call.say(said[5:-5])
            between.impair()
            await asyncio.sleep(0.1)
            await call.say(said[-5:])

            # when the agent says what it has heard
            told = await call.ask_figures()
            deadline = time.monotonic() + PATIENCE_S
            while told["heard"] < call.sent and time.monotonic() < deadline:
                told = await call.ask_figures()
                if told["heard"] >= call.sent * 0.995:
                    break

            # then each 20 ms was there, much of what was lost by the next packet's FEC
            lost = between.to_server.voice_lost
            print(f"lost {lost} of {call.sent}; {told}; {between.to_server}")  # noqa: T201
            assert lost > 0.02 * call.sent
            assert between.to_server.dropped == 0
            filled = told["heard"] - told["silent_ms"] / 20
            assert filled >= 0.995 * call.sent
            assert told["heard"] <= call.sent
            assert told["unread_ms"] == 0
            assert told["recovered_ms"] >= recovered * lost * 20

    run(scenario)


def test_the_content_of_a_call_with_loss_is_what_was_said(running: Server) -> None:
    said = payloads(speech(4.0, RATE), RATE, fec=True)

    async def scenario() -> None:
        async with (
            proxy(("127.0.0.1", running.port), SEED) as between,
            calling(running, "echo", between.rewrite) as call,
        ):
            between.impair(to_server=Impairment(loss=0.05, delay_s=0.0))
            await call.say(said)
            await call.heard_packets(int(call.sent * 0.97))

            alike = alignments(call.heard(), as_heard(said), WINDOW)
            assert between.to_server.voice_lost
            assert np.median(alike) > ALIKE
            assert np.mean(alike) > 0.8

    run(scenario)


# ---- the examples --------------------------------------------------------------------------------


@pytest.mark.parametrize("example", ["echo", "parrot", "turns", "heavy"])
def test_an_example_answers(example: str) -> None:
    silence = np.zeros(RATE, np.int16)
    said = np.concatenate([silence // 2, speech(1.5, RATE), silence, silence])

    async def scenario(running: Server) -> None:
        async with calling(running, "example") as call:
            # Until it answers: a pool's first process may take longer than what may wait for it.
            heard = np.zeros(1, np.int16)
            while np.abs(heard).max() < LOUD and call.sent < PATIENCE_S / PACKET_S:
                await call.say(payloads(said, RATE))
                await call.heard_packets(50)
                heard = call.heard()

            assert np.abs(heard).max() >= LOUD
            if example != "heavy":  # it changes the voice
                alike, _ = alignment(heard, said[RATE : 2 * RATE])
                assert alike > 0.7

    with server(relays=1, transceivers=1, app=f"examples.{example}:app") as running:
        asyncio.run(scenario(running))
        assert running.stop() == 0
    assert "Traceback" not in running.output


def test_the_workers_of_a_killed_transceiver_end_and_use_every_core() -> None:
    async def scenario(running: Server) -> None:
        async with calling(running, "example") as call:
            # given workers that have worked
            await call.say(payloads(speech(1.0, RATE), RATE))
            await call.heard_packets(10)
            (transceiver,) = running.status()["transceivers"]
            process = psutil.Process(transceiver["pid"])
            workers = process.children(recursive=True)
            spawned = [worker for worker in workers if "spawn_main" in " ".join(worker.cmdline())]
            assert spawned
            cores = list(range(os.cpu_count() or 1))
            await until(lambda: all(worker.cpu_affinity() == cores for worker in spawned))

            # when their transceiver is killed, they end
            process.kill()
            _, alive = await asyncio.to_thread(psutil.wait_procs, workers, PATIENCE_S)
            assert not alive

    with server(relays=1, transceivers=1, app="examples.heavy:app") as running:
        asyncio.run(scenario(running))
