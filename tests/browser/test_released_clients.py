"""Released clients, unmodified, hold calls from a page of another origin, with a token."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from aiohttp import web

from tests.support import npm, tones
from tests.support.browsers import CHROMIUM, FIREFOX, Browser, chromium, firefox
from tests.support.server import Server, server
from tests.support.talker import HUM_HZ
from voicerelay.transceiver.signalling.keys import Keys

pytestmark = [
    pytest.mark.browser,
    pytest.mark.system,
    pytest.mark.skipif(not (CHROMIUM and FIREFOX and npm.NPM), reason="needs browsers and npm"),
]
KEYS = "web:web-key-0123456789abcdef\n"
CHROMIUM_HZ, FIREFOX_HZ = 800, 600
CONNECT_TIMEOUT_S = 20
HEAR_TIMEOUT_S = 10

PACKAGES = (
    "@eyevinn/whip-web-client@1.1.7",
    "@pipecat-ai/client-js@1.13.1",
    "@pipecat-ai/small-webrtc-transport@1.10.8",
    "whip-whep@1.2.0",
)
ENTRY = """
import {PipecatClient} from '@pipecat-ai/client-js';
import {SmallWebRTCTransport, WavMediaManager} from '@pipecat-ai/small-webrtc-transport';
import {WHEPClient} from 'whip-whep/whep.js';
import {WHIPClient} from 'whip-whep/whip.js';
import {WHIPClient as EyevinnWHIPClient} from '@eyevinn/whip-web-client';
Object.assign(window, {
  EyevinnWHIPClient, PipecatClient, SmallWebRTCTransport, WavMediaManager, WHEPClient, WHIPClient,
});
"""

WHIP_JS = """(async () => {
  const pc = new RTCPeerConnection({bundlePolicy: 'max-bundle'});
  window.voicerelay = {pc, remoteStream: null};
  pc.ontrack = event => { window.voicerelay.remoteStream = event.streams[0] ?? new MediaStream([event.track]); };
  const stream = await navigator.mediaDevices.getUserMedia({audio: true});
  pc.addTransceiver(stream.getAudioTracks()[0], {direction: 'sendrecv', streams: [stream]});
  window.client = new WHIPClient();
  await client.publish(pc, SERVER + '/whip', TOKEN);
})()"""

EYEVINN_JS = """(async () => {
  const factory = config => {
    const pc = new RTCPeerConnection(config);
    window.voicerelay = {pc, remoteStream: null};
    pc.ontrack = event => { window.voicerelay.remoteStream = new MediaStream([event.track]); };
    return pc;
  };
  const stream = await navigator.mediaDevices.getUserMedia({audio: true, video: true});
  window.client = new EyevinnWHIPClient({
    endpoint: SERVER + '/whip', opts: {authkey: TOKEN}, peerConnectionFactory: factory,
  });
  await client.ingest(stream);
})()"""

WHEP_JS = """(async () => {
  const pc = new RTCPeerConnection({bundlePolicy: 'max-bundle'});
  window.voicerelay = {pc, remoteStream: null};
  pc.ontrack = event => {
    if (event.track.kind === 'audio') window.voicerelay.remoteStream = new MediaStream([event.track]);
  };
  pc.addTransceiver('audio', {direction: 'recvonly'});
  pc.addTransceiver('video', {direction: 'recvonly'});
  window.client = new WHEPClient();
  await client.view(pc, SERVER + '/whep', TOKEN);
})()"""

PIPECAT_JS = """(async () => {
  window.seen = {ready: null, left: false, messages: [], states: []};
  window.voicerelay = {pc: null, remoteStream: null};
  const transport = window.transport = new SmallWebRTCTransport({mediaManager: new WavMediaManager()});
  window.client = new PipecatClient({
    transport, enableMic: true, enableCam: false,
    callbacks: {
      onTrackStarted: (track, who) => {
        if (!who?.local && track.kind === 'audio') window.voicerelay.remoteStream = new MediaStream([track]);
      },
      onBotReady: data => { seen.ready = data; },
      onBotDisconnected: () => { seen.left = true; },
      onServerMessage: data => { seen.messages.push(data); },
      onTransportStateChanged: state => { seen.states.push(state); },
    },
  });
  const headers = new Headers({Authorization: 'Bearer ' + TOKEN});
  await client.startBotAndConnect({endpoint: SERVER + '/start', headers, requestData: {body: {name: 'bo'}}});
  window.voicerelay.pc = transport.pc;
})()"""


# The client stops the microphone's track when it closes its old peer connection.
NEW_MICROPHONE_JS = """(async () => {
  const stream = await navigator.mediaDevices.getUserMedia({audio: true});
  const [audio] = transport.pc.getTransceivers();
  await audio.sender.replaceTrack(stream.getAudioTracks()[0]);
  window.voicerelay.remoteStream = new MediaStream([audio.receiver.track]);
})()"""

# As FastRTC's own pages have it.
FASTRTC_JS = """(async () => {
  window.said = [];
  const pc = new RTCPeerConnection(), webrtc_id = Math.random().toString(36).substring(7);
  window.voicerelay = {pc, remoteStream: null};
  const headers = {'Content-Type': 'application/json', Authorization: `Bearer ${TOKEN}`};
  const post = body => fetch(SERVER + '/webrtc/offer', {
    method: 'POST', headers, body: JSON.stringify({...body, webrtc_id}),
  }).then(response => response.json());
  window.trickled = [];
  pc.onicecandidate = ({candidate}) => candidate && post({
    candidate: candidate.toJSON(), type: 'ice-candidate',
  }).then(answer => trickled.push(answer));
  const stream = await navigator.mediaDevices.getUserMedia({audio: true});
  stream.getTracks().forEach(track => pc.addTrack(track, stream));
  pc.addEventListener('track', event => { window.voicerelay.remoteStream = event.streams[0]; });
  window.channel = pc.createDataChannel('text');
  channel.onopen = () => channel.send('handshake');
  channel.onmessage = event => said.push(JSON.parse(event.data));
  const offer = await pc.createOffer();
  await pc.setLocalDescription(offer);
  const answer = await post({sdp: offer.sdp, type: offer.type});
  if (answer.status === 'failed') throw new Error(answer.meta.error);
  await pc.setRemoteDescription(answer);
})()"""


class Place(NamedTuple):
    """A browser that stands on the page with the clients."""

    browser: Browser
    running: Server
    hz: int


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The packages, bundled."""
    return npm.bundle(tmp_path_factory.mktemp("clients"), PACKAGES, ENTRY)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Server]:
    path = tmp_path / "keys"
    path.write_text(KEYS)
    app = "tests.support.talker:app"
    with server(app=app, extra=["--api-key-file", str(path)]) as running:
        yield running
        assert running.stop() == 0
    assert "Traceback" not in running.output


@contextlib.asynccontextmanager
async def place(kind: str, running: Server, clients: str, tmp_path: Path) -> AsyncIterator[Place]:
    """The page comes from a server of its own, so every request is one from another origin."""
    token = Keys.parse(KEYS).issue(time.time(), 600, subject="alice", max_sessions=1)
    constants = f"const SERVER = '{running.http_url}', TOKEN = '{token}';"
    html = f"<!doctype html><script src=bundle.js></script><script>{constants}</script>"

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text=html, content_type="text/html")

    async def script(_request: web.Request) -> web.Response:
        return web.Response(text=clients, content_type="text/javascript")

    app = web.Application()
    app.add_routes([web.get("/", page), web.get("/bundle.js", script)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    voice = tones.write_wav(tmp_path / "voice.wav", [CHROMIUM_HZ], step_s=1)
    opened, hz = (
        (chromium(voice=voice), CHROMIUM_HZ)
        if kind == "chromium"
        else (firefox(voice_hz=FIREFOX_HZ), FIREFOX_HZ)
    )
    try:
        async with opened as browser:
            await browser.goto(f"http://localhost:{port}/")
            yield Place(browser, running, hz)
    finally:
        await runner.cleanup()


async def hears(browser: Browser, hz: int) -> None:
    """Record what comes until it is the tone."""
    await browser.wait_for("window.voicerelay.remoteStream !== null", CONNECT_TIMEOUT_S)
    await browser.evaluate(tones.RECORD_JS)
    tone = f"window.__tone.slice(-5).filter(s => s.level > 0.01 && Math.abs(s.hz - {hz}) < 20).length === 5"
    await browser.wait_for(tone, HEAR_TIMEOUT_S)


async def is_over(running: Server) -> None:
    async with asyncio.timeout(HEAR_TIMEOUT_S):
        while await asyncio.to_thread(_sessions, running):
            await asyncio.sleep(0.1)


def _sessions(running: Server) -> int:
    return sum(entry["sessions"] for entry in running.status()["transceivers"])


BROWSERS = pytest.mark.parametrize("kind", ["chromium", "firefox"])


@BROWSERS
@pytest.mark.parametrize("script", [WHIP_JS, EYEVINN_JS], ids=["whip-whep", "eyevinn"])
def test_whip_clients_hear_their_echo_and_hang_up(
    kind: str, script: str, running: Server, clients: str, tmp_path: Path
) -> None:
    async def run() -> None:
        async with place(kind, running, clients, tmp_path) as here:
            await here.browser.evaluate(script)
            if script is WHIP_JS:
                await hears(here.browser, here.hz)
                await here.browser.evaluate("client.restart()")
                await hears(here.browser, here.hz)
                await here.browser.evaluate("client.stop()")
            else:  # it never receives (sendonly), so the call's state must do
                up = "window.voicerelay.pc.connectionState === 'connected'"
                await here.browser.wait_for(up, CONNECT_TIMEOUT_S)
                await here.browser.evaluate("client.destroy()")
            await is_over(running)

    asyncio.run(run())


@BROWSERS
def test_a_whep_client_hears_the_agent(
    kind: str, running: Server, clients: str, tmp_path: Path
) -> None:
    async def run() -> None:
        async with place(kind, running, clients, tmp_path) as here:
            await here.browser.evaluate(WHEP_JS)
            await hears(here.browser, HUM_HZ)
            await here.browser.evaluate("client.stop()")
            await is_over(running)

    asyncio.run(run())


@BROWSERS
def test_pipecats_client_talks_comes_back_and_is_told_of_the_end(
    kind: str, running: Server, clients: str, tmp_path: Path
) -> None:
    async def run() -> None:
        async with place(kind, running, clients, tmp_path) as here:
            browser = here.browser
            # given a call by /start that both sides are ready for
            await browser.evaluate(PIPECAT_JS)
            await browser.wait_for("seen.ready !== null", CONNECT_TIMEOUT_S)
            await hears(browser, here.hz)
            await browser.evaluate("client.sendClientMessage('hello', {})")
            first = await browser.wait_for("seen.messages[0]", HEAR_TIMEOUT_S)
            assert first == {"turn": 1, "body": {"name": "bo"}, "subject": "alice"}

            # when its client makes a new peer connection, as after a lost network
            await browser.evaluate("void (window.old = transport.pc)")
            await browser.evaluate("void transport.attemptReconnection(true)")
            moved = "transport.pc !== window.old && transport.pc.connectionState === 'connected'"
            await browser.wait_for(moved, CONNECT_TIMEOUT_S)
            await browser.wait_for("transport.dc.readyState === 'open'", CONNECT_TIMEOUT_S)

            # then the agent goes on where it was
            await browser.evaluate(NEW_MICROPHONE_JS)
            await hears(browser, here.hz)
            await browser.evaluate("client.sendClientMessage('hello', {})")
            second = await browser.wait_for("seen.messages[1]", HEAR_TIMEOUT_S)
            assert second["turn"] == 2

            # and a renegotiation changes nothing
            await browser.evaluate("transport.negotiate()")
            await browser.evaluate("client.sendClientMessage('hello', {})")
            assert (await browser.wait_for("seen.messages[2]", HEAR_TIMEOUT_S))["turn"] == 3

            # and when the agent leaves, the client is told
            await browser.evaluate("client.sendClientMessage('bye', {})")
            await browser.wait_for("seen.left", HEAR_TIMEOUT_S)
            await is_over(running)

    asyncio.run(run())


@BROWSERS
def test_fastrtcs_inline_client_talks_and_is_told_of_the_end(
    kind: str, running: Server, clients: str, tmp_path: Path
) -> None:
    async def run() -> None:
        async with place(kind, running, clients, tmp_path) as here:
            browser = here.browser
            await browser.evaluate(FASTRTC_JS)
            await hears(browser, here.hz)
            await browser.evaluate("channel.send('hello')")
            first = await browser.wait_for("said[0]", HEAR_TIMEOUT_S)
            assert first["data"]["turn"] == 1  # so the handshake was not the agent's
            await browser.evaluate("channel.send('bye')")
            await browser.wait_for("said.some(m => m.type === 'end_stream')", HEAR_TIMEOUT_S)
            await is_over(running)

    asyncio.run(run())
