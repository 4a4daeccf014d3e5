"""Released clients, unmodified, hold calls from a page of another origin, with a token."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from aiohttp import web

from tests.support import npm, tones
from tests.support.browsers import CHROMIUM, FIREFOX, Browser, chromium, firefox
from tests.support.client_pages import (
    ENTRY,
    EYEVINN_JS,
    FASTRTC_JS,
    HEADSET_JS,
    MIC_JS,
    NEW_MICROPHONE_JS,
    PACKAGES,
    PIPECAT_JS,
    WHIP_JS,
    shown,
)
from tests.support.scripted_backend import ScriptedBackend, backend_options
from tests.support.server import Server, free_port, server
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
TONE_HZ = 600  # examples/realtime_backend.py


class Place(NamedTuple):
    """A browser that stands on the page with the clients."""

    browser: Browser
    running: Server
    hz: int


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The packages, bundled."""
    return npm.bundle(tmp_path_factory.mktemp("clients"), PACKAGES, ENTRY)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = tmp_path_factory.mktemp("keys") / "keys"
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
    html = "<!doctype html><script src=bundle.js></script>"
    html += f"<script>{constants}{HEADSET_JS}</script>"

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
    tone = f"window.__tone.slice(-5).filter(s => {is_tone(hz)}).length === 5"
    await browser.wait_for(tone, HEAR_TIMEOUT_S)


async def barges_in(browser: Browser, answer_hz: int, then: str) -> None:
    """Be silent until there is an answer, then speak: it stops, and what comes holds of `s`."""
    await browser.evaluate(MIC_JS.replace("ENABLED", "false"))
    await hears(browser, answer_hz)
    await browser.evaluate(MIC_JS.replace("ENABLED", "true"))
    await browser.wait_for(f"window.__tone.slice(-5).every(s => {then})", HEAR_TIMEOUT_S)


def is_tone(hz: int) -> str:
    return f"s.level > 0.01 && Math.abs(s.hz - {hz}) < 20"


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
                await barges_in(here.browser, HUM_HZ, is_tone(here.hz))
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
            await here.browser.evaluate(shown("WHEP"))
            await hears(here.browser, HUM_HZ)
            await here.browser.evaluate("voicerelay.pc.close()")
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

            # when he speaks while the agent does, it stops, and both know
            await barges_in(browser, HUM_HZ, is_tone(here.hz))
            told = await browser.wait_for("seen.messages[1]", HEAR_TIMEOUT_S)
            assert told["interrupted_after_ms"] > 0

            # and when its client makes a new peer connection, as after a lost network
            await browser.evaluate("void (window.old = transport.pc)")
            await browser.evaluate("void transport.attemptReconnection(true)")
            moved = "transport.pc !== window.old && transport.pc.connectionState === 'connected'"
            await browser.wait_for(moved, CONNECT_TIMEOUT_S)
            await browser.wait_for("transport.dc.readyState === 'open'", CONNECT_TIMEOUT_S)

            # then the agent goes on where it was
            await browser.evaluate(NEW_MICROPHONE_JS)
            await hears(browser, here.hz)
            await browser.evaluate("client.sendClientMessage('hello', {})")
            second = await browser.wait_for("seen.messages[2]", HEAR_TIMEOUT_S)
            assert second["turn"] == 2

            # and a renegotiation changes nothing
            await browser.evaluate("transport.negotiate()")
            await browser.evaluate("client.sendClientMessage('hello', {})")
            assert (await browser.wait_for("seen.messages[3]", HEAR_TIMEOUT_S))["turn"] == 3

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
            await barges_in(browser, HUM_HZ, is_tone(here.hz))
            told = await browser.wait_for("said[1]", HEAR_TIMEOUT_S)
            assert told["data"]["interrupted_after_ms"] > 0
            await browser.evaluate("channel.send('bye')")
            await browser.wait_for("said.some(m => m.type === 'end_stream')", HEAR_TIMEOUT_S)
            await is_over(running)

    asyncio.run(run())


@BROWSERS
def test_each_of_them_talks_to_a_backend_and_interrupts_it(
    kind: str, clients: str, tmp_path: Path
) -> None:
    async def run(running: Server) -> None:
        async with place(kind, running, clients, tmp_path) as here:
            for client in ("WHIP", "Pipecat", "FastRTC"):  # as docs/clients.md shows them
                # The backend answers with a tone of five seconds when the caller pauses.
                await here.browser.evaluate(shown(client))
                up = "window.voicerelay.pc?.connectionState === 'connected'"
                await here.browser.wait_for(up, CONNECT_TIMEOUT_S)
                await barges_in(here.browser, TONE_HZ, "s.level < 0.01")
                await here.browser.evaluate("voicerelay.pc.close()")
                await is_over(running)

    backend = ScriptedBackend(free_port(socket.SOCK_STREAM), "--script", "tone")
    keys = tmp_path / "keys"
    keys.write_text(KEYS)
    extra = backend_options(backend.url, backend.key_file(tmp_path))
    try:
        with server(relays=1, extra=[*extra, "--api-key-file", str(keys)]) as running:
            asyncio.run(run(running))
            assert backend.connections() == 0
            assert running.stop() == 0
        assert "Traceback" not in running.output
    finally:
        backend.stop()
