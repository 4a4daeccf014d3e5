"""OpenAI's released agents SDK in real browsers, unmodified: audio both ways, events, functions, interruption."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from tests.support import npm, tones
from tests.support.browsers import CHROMIUM, FIREFOX, Browser, chromium, firefox
from tests.support.scripted_backend import ScriptedBackend, backend_options
from tests.support.server import Server, free_port, server

pytestmark = [
    pytest.mark.browser,
    pytest.mark.system,
    pytest.mark.skipif(not (CHROMIUM and FIREFOX), reason="needs chromium and firefox-esr"),
    pytest.mark.skipif(not npm.NPM, reason="needs npm"),
]

ROOT = Path(__file__).parents[2]
PACKAGE = "@openai/agents-realtime@0.20.0"
VOICE_HZ = 800
ANSWER_HZ = 600  # examples/realtime_agent.py
PATIENCE_S = 30

ENTRY = """
import {OpenAIRealtimeWebRTC, RealtimeAgent, RealtimeSession, tool} from '@openai/agents-realtime';

const player = new Audio();
window.happened = [];
window.call = async () => {
  const secret = await (await fetch('/v1/realtime/client_secrets', {method: 'POST'})).json();
  // Noise suppression would take a tone for noise.
  const audio = {echoCancellation: false, noiseSuppression: false, autoGainControl: false};
  const mediaStream = await navigator.mediaDevices.getUserMedia({audio});
  window.microphone = on => mediaStream.getAudioTracks().forEach(track => { track.enabled = on; });
  const transport = new OpenAIRealtimeWebRTC({
    baseUrl: location.origin + '/v1/realtime/calls', audioElement: player, mediaStream,
  });
  transport.on('*', event => window.happened.push(event));
  const parameters = {type: 'object', properties: {}, required: [], additionalProperties: true};
  const agent = new RealtimeAgent({
    name: 'tester', instructions: 'be brief',
    tools: [tool({name: 'seconds', description: 'how many', parameters, strict: false,
                  execute: async () => { window.asked = true; return '5'; }})],
  });
  window.session = new RealtimeSession(agent, {transport, model: 'any'});
  const began = performance.now();
  await window.session.connect({apiKey: secret.value});
  window.voicerelay = {remoteStream: player.srcObject, pc: transport.connectionState.peerConnection};
  return {ms: performance.now() - began, callId: transport.callId};
};
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The SDK, bundled."""
    return npm.bundle(tmp_path_factory.mktemp("agents"), [PACKAGE], ENTRY)


@pytest.fixture(params=["chromium", "firefox"])
def opened(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Callable[[], AbstractAsyncContextManager[Browser]]:
    """Opens the browser of this parameter; both hum the same tone."""
    if request.param == "chromium":
        voice = tones.write_wav(tmp_path / "voice.wav", [VOICE_HZ], step_s=1)
        return lambda: chromium(voice=voice)
    return lambda: firefox(voice_hz=VOICE_HZ)


@contextlib.contextmanager
def brain(kind: str, tmp_path: Path) -> Iterator[tuple[Server, int]]:
    """A server whose answers come from a backend or from Python, and the tone of an answer."""
    with contextlib.ExitStack() as stack:
        if kind == "backend":
            backend = ScriptedBackend(free_port(socket.SOCK_STREAM), "--script", "function")
            stack.callback(backend.stop)
            extra = backend_options(backend.url, backend.key_file(tmp_path))
            running = stack.enter_context(server(relays=1, transceivers=2, extra=extra))
            yield running, VOICE_HZ  # the caller's own voice
        else:
            app, env = "examples.realtime_agent:app", {"PYTHONPATH": str(ROOT)}
            running = stack.enter_context(server(relays=1, transceivers=2, app=app, env=env))
            yield running, ANSWER_HZ
        assert running.stop() == 0
        assert "Traceback" not in running.output, running.output


def happened(kind: str) -> str:
    """Whether an event of that type has come, in JavaScript."""
    return f"window.happened.some(event => event.type === '{kind}')"


@pytest.mark.parametrize("kind", ["backend", "python"])
def test_the_agents_sdk_holds_a_call(
    kind: str,
    script: str,
    opened: Callable[[], AbstractAsyncContextManager[Browser]],
    tmp_path: Path,
) -> None:
    async def scenario(running: Server, hz: int) -> None:
        async with opened() as browser:
            # given a session that has been configured
            await browser.goto(running.http_url)
            await browser.evaluate(f"(0, eval)({json.dumps(script)})")
            made = await browser.evaluate("window.call()")
            assert made["callId"].startswith("rtc_")
            assert await browser.evaluate(happened("session.updated"))
            await browser.evaluate(tones.RECORD_JS)
            await asyncio.sleep(4)  # of voice, which the backend says back

            # when he pauses, or an answer is wanted, a function of the page is called first
            speaks = kind == "backend"  # it detects turns
            asks = "microphone(false)" if speaks else "session.transport.requestResponse()"
            await browser.evaluate(f"window.{asks}")
            await browser.wait_for("window.asked", PATIENCE_S)
            await browser.wait_for(happened("output_audio_buffer.started"), PATIENCE_S)

            # then it is heard
            await browser.wait_for(
                f"window.__tone.slice(-8).every(s => s.level > 0.01 && Math.abs(s.hz - {hz}) < 20)",
                PATIENCE_S,
            )

            # and can be interrupted, by his voice or by the page
            await browser.evaluate(
                f"window.{'microphone(true)' if speaks else 'session.interrupt()'}"
            )
            await browser.wait_for(happened("output_audio_buffer.cleared"), PATIENCE_S)
            await browser.wait_for(happened("conversation.item.truncated"), PATIENCE_S)
            await browser.wait_for("window.__tone.slice(-8).every(s => s.level < 0.01)", PATIENCE_S)
            assert not await browser.evaluate(happened("error"))
            await browser.evaluate("window.session.close()")

    with brain(kind, tmp_path) as (running, hz):
        asyncio.run(scenario(running, hz))
