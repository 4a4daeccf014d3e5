"""Realtime calls of real processes: a scripted backend behind them, and what happens when it fails."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.support.client import CallRefused
from tests.support.realtime_call import PATIENCE_S, RealtimeCall
from tests.support.scripted_backend import KEY, ScriptedBackend, backend_options
from tests.support.server import Server, free_port, server
from voicerelay.cli.status import read_status

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
TRUNCATION_MS = 200  # events and voice may overtake each other by so much


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(KEY + "\n")
    return path


@contextlib.contextmanager
def bridged(
    key_file: Path, *options: str, vad: bool = False
) -> Iterator[tuple[Server, ScriptedBackend]]:
    """A server, and the backend that its calls are bridged to."""
    backend = ScriptedBackend(free_port(socket.SOCK_STREAM), *options)
    try:
        with server(
            relays=1, transceivers=1, extra=backend_options(backend.url, key_file, vad)
        ) as running:
            yield running, backend
            assert running.stop() == 0
        assert KEY not in running.output
        assert "Traceback" not in running.output, running.output
    finally:
        backend.stop()


@contextlib.asynccontextmanager
async def calling(
    running: Server, **how: object
) -> AsyncIterator[tuple[RealtimeCall, aiohttp.ClientSession]]:
    """A connected call that sends silence."""
    async with aiohttp.ClientSession() as http:
        call = RealtimeCall(running.http_url, **how)  # type: ignore[arg-type]
        try:
            await call.connect(http)
            call.begin_talking()
            yield call, http
        finally:
            await call.close()


async def nothing_is_left(running: Server, backend: ScriptedBackend | None = None) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while read_status(running.run_dir)["sessions"] or (backend and backend.connections()):
            await asyncio.sleep(0.02)


def sockets_to(running: Server, backend: ScriptedBackend) -> int:
    """TCP sockets of the transceiver that lead to the backend, in whatever state."""
    process = psutil.Process(read_status(running.run_dir)["transceivers"][0]["pid"])
    found = process.net_connections("tcp")
    return sum(bool(one.raddr) and one.raddr.port == backend.port for one in found)


async def takes_a_turn(call: RealtimeCall) -> None:
    """Speak until the other side has noticed, then be silent."""
    since = len(call.events)
    call.loud = True
    await call.event("input_audio_buffer.speech_started", since)
    await asyncio.sleep(0.6)
    call.loud = False
    await call.event("input_audio_buffer.speech_stopped", since)


def test_a_turn_is_answered_with_events_and_the_callers_own_voice(key_file: Path) -> None:
    async def scenario(running: Server, backend: ScriptedBackend) -> None:
        async with calling(running, query="?model=m") as (call, http):
            # given a configured session
            await call.event("session.created")
            call.send_event("session.update", session={"type": "realtime", "instructions": "be"})
            updated = await call.event("session.updated")
            assert updated["session"]["instructions"] == "be"

            # when the caller speaks and stops
            await takes_a_turn(call)
            await call.event("output_audio_buffer.stopped")

            # then he hears himself, between the events that say so, and no audio comes as events
            kinds = call.kinds()
            order = [
                "response.created",
                "output_audio_buffer.started",
                "output_audio_buffer.stopped",
            ]
            assert [kind for kind in kinds if kind in order] == order
            assert not [kind for kind in kinds if kind.endswith("audio.delta")]
            assert all(event["event_id"] for event in call.events)
            assert abs(call.heard()).max() > 1000
            assert call.resource.startswith("/v1/realtime/calls/rtc_")

            # and when he hangs up, nothing is left
            assert await call.hang_up(http) == 200
            await nothing_is_left(running, backend)

    with bridged(key_file) as (running, backend):
        asyncio.run(scenario(running, backend))


def test_barge_in_stops_the_voice_and_truncates_what_was_not_heard(key_file: Path) -> None:
    async def scenario(running: Server) -> None:
        async with calling(running) as (call, _):
            # given an answer of five seconds, all of it made at once
            call.send_event("response.create")
            await call.event("response.done")
            await call.heard_packets(50)

            # when the caller begins to speak
            call.loud = True
            await call.event("output_audio_buffer.cleared")
            heard = len(call.received)

            # then what was really sent is what the backend is told
            truncated = await call.event("conversation.item.truncated")
            assert truncated["audio_end_ms"] == pytest.approx(heard * 20, abs=TRUNCATION_MS)
            call.loud = False
            await call.event("input_audio_buffer.speech_stopped")
            assert len(call.received) <= heard + TRUNCATION_MS / 20

    with bridged(key_file, "--script", "tone") as (running, _):
        asyncio.run(scenario(running))


def test_a_client_can_interrupt_as_the_agents_sdk_does(key_file: Path) -> None:
    async def scenario(running: Server) -> None:
        async with calling(running) as (call, _):
            # given an answer that is still being made
            call.send_event("response.create")
            await call.event("output_audio_buffer.started")

            call.send_event("response.cancel")
            call.send_event("output_audio_buffer.clear")

            assert (await call.event("output_audio_buffer.cleared"))["response_id"]
            assert (await call.event("response.done"))["response"]["status"] == "cancelled"
            assert (await call.event("conversation.item.truncated"))["audio_end_ms"] < 3000
            assert "output_audio_buffer.stopped" not in call.kinds()

    with bridged(key_file, "--script", "tone", "--delta-ms", "100") as (running, _):
        asyncio.run(scenario(running))


def test_a_function_of_the_client_is_called_and_its_output_answered(key_file: Path) -> None:
    async def scenario(running: Server) -> None:
        async with calling(running) as (call, _):
            call.send_event("session.update", session={"tools": [{"name": "weather"}]})
            call.loud = True
            await call.event("input_audio_buffer.speech_started")
            call.send_event("response.create")
            asked = await call.event("response.function_call_arguments.done")
            assert asked["name"] == "weather"

            output = {"type": "function_call_output", "call_id": asked["call_id"], "output": "1"}
            call.send_event("conversation.item.create", item=output)
            call.send_event("response.create")

            assert await call.event("output_audio_buffer.started")

    with bridged(key_file, "--script", "function") as (running, _):
        asyncio.run(scenario(running))


def test_turns_are_detected_here_when_the_backend_cannot(key_file: Path) -> None:
    async def scenario(running: Server) -> None:
        async with calling(running) as (call, _):
            await takes_a_turn(call)
            await call.event("output_audio_buffer.started")

            call.loud = True
            await call.event("output_audio_buffer.cleared")
            await call.event("conversation.item.truncated")

    with bridged(key_file, "--script", "tone", "--no-vad", vad=True) as (running, _):
        asyncio.run(scenario(running))


def test_a_backend_that_dies_is_told_to_the_client_and_ends_the_call(key_file: Path) -> None:
    async def scenario(running: Server, backend: ScriptedBackend) -> None:
        async with calling(running) as (call, _):
            await call.event("session.created")
            assert sockets_to(running, backend) == 1

            backend.kill()

            error = await call.event("error")
            assert error["error"]["code"] == "backend_lost"
            assert error["error"]["type"] == "server_error"
            async with asyncio.timeout(PATIENCE_S):
                await call.closed.wait()
            await nothing_is_left(running)
            assert sockets_to(running, backend) == 0
            assert read_status(running.run_dir)["transceivers"][0]["backends_lost"] == 1

    with bridged(key_file) as (running, backend):
        asyncio.run(scenario(running, backend))


def test_a_backend_that_comes_back_in_time_keeps_the_call(key_file: Path) -> None:
    async def scenario(running: Server, backend: ScriptedBackend) -> None:
        async with calling(running) as (call, _):
            await call.event("session.created")
            call.send_event("session.update", session={"instructions": "be kind"})
            await call.event("session.updated")

            since = len(call.events)
            backend.succeed()

            # then the client hears of it, and the new connection is configured as the old one
            error = await call.event("error", since)
            assert error["error"]["code"] == "backend_reconnected"
            updated = await call.event("session.updated", since)
            assert updated["session"]["instructions"] == "be kind"
            await takes_a_turn(call)
            await call.event("output_audio_buffer.stopped", since)

    with bridged(key_file) as (running, backend):
        asyncio.run(scenario(running, backend))


def test_a_backend_that_is_absent_is_a_clear_error_at_once(key_file: Path) -> None:
    nobody = f"ws://127.0.0.1:{free_port(socket.SOCK_STREAM)}/v1/realtime"

    async def scenario(running: Server) -> None:
        async with calling(running) as (call, _):
            error = await call.event("error")
            assert error["error"]["code"] == "backend_unavailable"  # not tried again
            async with asyncio.timeout(PATIENCE_S):
                await call.closed.wait()
            await nothing_is_left(running)

    with server(relays=1, transceivers=1, extra=backend_options(nobody, key_file)) as running:
        asyncio.run(scenario(running))


def test_a_backend_that_has_stopped_keeps_no_call_from_ending(key_file: Path) -> None:
    async def scenario(running: Server, backend: ScriptedBackend) -> None:
        async with calling(running) as (call, http):
            await call.event("session.created")

            backend.kill(signal.SIGSTOP)
            await asyncio.sleep(1.0)

            # then hanging up does not wait for it
            assert await call.hang_up(http) == 200
            backend.kill(signal.SIGCONT)
            await nothing_is_left(running, backend)

    with bridged(key_file) as (running, backend):
        asyncio.run(scenario(running, backend))


def test_a_python_agent_answers_interrupts_and_calls_functions() -> None:
    async def scenario(running: Server) -> None:
        # given a call with a secret that carries its session
        async with aiohttp.ClientSession() as http:
            asked = {"session": {"instructions": "be", "tools": [{"name": "length"}]}}
            url = f"{running.http_url}/v1/realtime/client_secrets"
            async with http.post(url, json=asked) as response:
                secret = (await response.json())["value"]
        async with calling(running, token=secret) as (call, http):
            created = await call.event("session.created")
            assert created["session"]["tools"] == [{"name": "length"}]

            # when a sideband asks for an answer, the client is asked for its length
            sideband = f"{running.http_url}/v1/realtime?call_id={call.call_id}"
            async with http.ws_connect(sideband) as beside:
                await beside.send_json({"type": "response.create"})
                asked = await call.event("response.function_call_arguments.done")
                output = {"type": "function_call_output", "call_id": asked["call_id"]}
                call.send_event("conversation.item.create", item=output | {"output": "20"})
                call.send_event("response.create")
                await call.event("output_audio_buffer.started")

                # then it can be interrupted, and the sideband has seen all of it
                call.send_event("output_audio_buffer.clear")
                await call.event("conversation.item.truncated")
                done = await call.event("response.done", call.kinds().index("response.done") + 1)
                assert done["response"]["status"] == "cancelled"
                seen = [(await beside.receive_json())["type"] for _ in range(3)]
                assert seen[0] == "response.created"

            # and what is no event is answered, and ends nothing
            call.send_event("no.such.event", event_id="mine")
            error = (await call.event("error"))["error"]
            assert (error["code"], error["event_id"]) == ("unknown_event", "mine")
            assert await call.hang_up(http) == 200
            await nothing_is_left(running)

    with server(app="examples.realtime_agent:app", env={"PYTHONPATH": str(ROOT)}) as running:
        asyncio.run(scenario(running))


def test_a_secret_that_is_none_begins_no_call(key_file: Path) -> None:
    async def scenario(running: Server) -> None:
        async with aiohttp.ClientSession() as http:
            call = RealtimeCall(running.http_url, token="ek_wrong")
            with pytest.raises(CallRefused) as refused:
                await call.connect(http)
            await call.close()
            assert refused.value.status == 401
            assert set(refused.value.body["error"]) == {"message", "type", "code", "param"}

    with server(relays=1, transceivers=1) as running:
        asyncio.run(scenario(running))
