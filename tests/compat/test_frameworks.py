"""Released, unmodified Pipecat and FastRTC hold calls inside a transceiver, as the examples have them."""

import asyncio
import contextlib
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.support.browsers import CHROMIUM, Browser, chromium
from tests.support.server import Server, server
from tests.support.tone_call import TONE_HZ, ToneCall
from tests.support.tones import RECORD_JS, SAMPLE_MS, SILENCE_LEVEL, write_wav
from voicerelay.cli.status import read_status

pytestmark = [pytest.mark.compat, pytest.mark.system]

READY_TIMEOUT_S = 90.0  # FastRTC and what it needs take a core 7 s to import
CONNECT_S = 10.0
LISTEN_S = 20.0
HEARD_MS = 1000
# Nothing may be asked of anybody outside.
ENV = {
    "PYTHONPATH": str(Path(__file__).parents[2]),
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
}


@contextlib.contextmanager
def framework(package: str, app: str, transceivers: int) -> Iterator[Server]:
    if find_spec(package) is None:
        pytest.skip(f'{package} is not installed: pip install -e ".[compat]"')
    with server(
        app=app, transceivers=transceivers, env=ENV, ready_timeout_s=READY_TIMEOUT_S
    ) as started:
        yield started


@pytest.fixture(scope="module")
def pipecat() -> Iterator[Server]:
    with framework("pipecat", "examples.pipecat_echo:app", transceivers=2) as started:
        yield started


@pytest.fixture(scope="module")
def fastrtc() -> Iterator[Server]:
    with framework("fastrtc", "examples.fastrtc_echo:app", transceivers=1) as started:
        yield started


@contextlib.asynccontextmanager
async def calling(url: str, **more: Any) -> AsyncIterator[ToneCall]:
    call = ToneCall(url, **more)
    async with aiohttp.ClientSession() as http:
        try:
            await call.connect(http)
            yield call
        finally:
            await call.close()


async def send(method: str, url: str, body: dict[str, Any]) -> tuple[int, Any]:
    """On a connection of its own, so that any transceiver may get it."""
    async with aiohttp.ClientSession() as http, http.request(method, url, json=body) as response:
        return response.status, await response.json()


def assert_one_port(running: Server, sdp: str) -> None:
    assert "a=ice-lite" in sdp
    found = set(re.findall(r"a=candidate:\d+ \d+ udp \d+ (\S+) (\d+)", sdp))
    assert found == {("127.0.0.1", str(running.port))}
    pids = [transceiver["pid"] for transceiver in read_status(running.run_dir)["transceivers"]]
    sockets = [s for pid in pids for s in psutil.Process(pid).net_connections("udp")]
    assert {found.laddr.port for found in sockets} == {running.port}


CANDIDATE = "candidate:1 1 udp 2122260223 4f2c-9d1e.local 60000 typ host"


def test_pipecat_says_back_what_it_hears(pipecat: Server) -> None:
    async def scenario() -> None:
        url = f"{pipecat.http_url}/api/offer"
        async with calling(url) as call:
            assert await call.hears_tone()
            assert_one_port(pipecat, call.answer["sdp"])
            assert read_status(pipecat.run_dir)["sessions"] == 1

            # trickle finds the owner from anywhere, and what nobody owns is Pipecat's own 404
            candidate = {"candidate": CANDIDATE, "sdp_mid": "0", "sdp_mline_index": 0}
            trickle = {"pc_id": call.answer["pc_id"], "candidates": [candidate]}
            for _ in range(8):
                assert await send("PATCH", url, trickle) == (200, {"status": "success"})
            assert (await send("PATCH", url, trickle | {"pc_id": "nobody"}))[0] == 404

    asyncio.run(scenario())


def test_pipecat_restarts_a_peer_connection_at_its_owner(pipecat: Server) -> None:
    async def scenario() -> None:
        url = f"{pipecat.http_url}/api/offer"
        async with contextlib.AsyncExitStack() as stack:
            call = await stack.enter_async_context(calling(url))
            assert await call.hears_tone(0.2)
            name = call.answer["pc_id"]

            # when the client has lost its peer connection and comes with a new one
            again = await stack.enter_async_context(calling(url, pc_id=name, restart_pc=True))

            # then it is the same pipeline's call, and the only one
            assert f"Reusing existing connection for pc_id: {name}" in pipecat.output
            async with asyncio.timeout(CONNECT_S):
                await again.connected.wait()
            assert read_status(pipecat.run_dir)["sessions"] == 1

    asyncio.run(scenario())


def test_fastrtc_says_back_what_it_hears(fastrtc: Server) -> None:
    async def scenario() -> None:
        url, name = f"{fastrtc.http_url}/webrtc/offer", uuid.uuid4().hex
        async with calling(url, webrtc_id=name) as call:
            assert await call.hears_tone()
            assert_one_port(fastrtc, call.answer["sdp"])
            candidate = {"candidate": CANDIDATE, "sdpMid": "0", "sdpMLineIndex": 0}
            body = {"type": "ice-candidate", "webrtc_id": name, "candidate": candidate}
            assert (await send("POST", url, body))[0] == 200

    asyncio.run(scenario())


# What a page of either framework does: microphone, data channel, offer, trickle, remote stream.
CALL_JS = """
(async () => {
  const fastrtc = PATH === '/webrtc/offer', id = crypto.randomUUID(), early = [];
  const pc = new RTCPeerConnection();
  window.voicerelay = {pc, messages: []};
  const remote = new Promise(resolve => pc.ontrack = e => resolve(e.streams[0]));
  const mic = await navigator.mediaDevices.getUserMedia({audio: {
    echoCancellation: false, noiseSuppression: false, autoGainControl: false}});
  pc.addTransceiver(mic.getTracks()[0], {direction: 'sendrecv', streams: [mic]});
  const channel = pc.createDataChannel(fastrtc ? 'text' : 'chat', {ordered: true});
  channel.onmessage = e => window.voicerelay.messages.push(e.data);
  channel.onopen = () => setInterval(() => channel.send(`ping: ${Date.now()}`), 1000);
  const post = async (method, body) => (await fetch(PATH, {
    method, headers: {'Content-Type': 'application/json'}, body: JSON.stringify(body)})).json();
  let pcId = null;
  const trickle = c => fastrtc
    ? post('POST', {type: 'ice-candidate', webrtc_id: id, candidate: c.toJSON()})
    : post('PATCH', {pc_id: pcId, candidates: [
        {candidate: c.candidate, sdp_mid: c.sdpMid, sdp_mline_index: c.sdpMLineIndex}]});
  pc.onicecandidate = e => { if (e.candidate) pcId ? trickle(e.candidate) : early.push(e.candidate); };
  await pc.setLocalDescription();
  const offer = {sdp: pc.localDescription.sdp, type: 'offer'};
  const answer = await post('POST', fastrtc ? {...offer, webrtc_id: id} : {...offer, pc_id: null});
  await pc.setRemoteDescription(answer);
  pcId = answer.pc_id ?? id;
  window.voicerelay.trickled = await Promise.all(early.map(trickle));
  window.voicerelay.remoteStream = await remote;
  return answer.sdp;
})()
"""


async def browse(running: Server, path: str, voice: Path) -> None:
    """A page calls, and hears the tone of its own microphone."""
    async with chromium(voice=voice) as browser:
        await browser.goto(f"{running.http_url}/a-page-of-its-own")
        sdp = await browser.evaluate(CALL_JS.replace("PATH", f"'{path}'"))
        assert_one_port(running, sdp)
        await browser.wait_for("window.voicerelay.pc.connectionState === 'connected'", 15)
        await browser.evaluate(RECORD_JS)
        # Neither framework bridges the gaps of a busy machine: what counts is a second in all.
        near = f"s.level >= {SILENCE_LEVEL} && Math.abs(s.hz - {TONE_HZ}) < 15"
        heard_ms = f"window.__tone.filter(s => {near}).length * {SAMPLE_MS}"
        await browser.wait_for(f"{heard_ms} >= {HEARD_MS}", LISTEN_S)
        assert await trickled(browser)


async def trickled(browser: Browser) -> bool:
    """Whether every candidate of the page was taken."""
    answers = await browser.evaluate("window.voicerelay.trickled")
    return all(answer == {"status": "success"} for answer in answers)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_chromium_talks_with_pipecat(pipecat: Server, tmp_path: Path) -> None:
    asyncio.run(browse(pipecat, "/api/offer", write_wav(tmp_path / "tone.wav", [TONE_HZ])))


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_chromium_talks_with_fastrtc(fastrtc: Server, tmp_path: Path) -> None:
    asyncio.run(browse(fastrtc, "/webrtc/offer", write_wav(tmp_path / "tone.wav", [TONE_HZ])))
