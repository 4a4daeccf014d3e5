"""Real browsers call a real server and judge it by what they hear.

`pytest -rP --log-level=info` shows the figures of passing tests.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support import tones
from tests.support.browsers import CHROMIUM, FIREFOX, Browser, chromium, firefox
from tests.support.server import Server, server
from tests.support.tones import Sample
from tests.system.conftest import steering_unavailable

pytestmark = [
    pytest.mark.browser,
    pytest.mark.system,
    pytest.mark.skipif(not (CHROMIUM and FIREFOX), reason="needs chromium and firefox-esr"),
]

log = logging.getLogger(__name__)

CALL_S = {"off": 35, "on": 12}  # by --steering; the first is longer than CONSENT_EXPIRY_S
CONNECT_TIMEOUT_S = 20
HEAR_TIMEOUT_S = 10
END_TIMEOUT_S = 5
STATUS_TIMEOUT_S = 10
REST_TIMEOUT_S = 30  # the page gives up on ICE after 10 s, a browser by itself after 15 to 30
MAX_GAP_MS = 300
MAX_CONCEALED_MS = 300  # in sum, so no single hole was longer either
MAX_EDGE_DELAY_MS = 1500
CHROMIUM_HZ = 800
FIREFOX_HZ = 600  # another tone, so that crossed calls would be heard

PATCH_JS = """
  // RFC 9725 §4.3: BUNDLE group, first m-line, mid, credentials, candidates.
  const fragment = (sdp, extra) => {
    const find = pattern => (sdp.match(pattern) || [''])[0];
    return [find(/a=group:BUNDLE.*/), find(/m=audio.*/), find(/a=mid:.*/),
            find(/a=ice-ufrag:.*/), find(/a=ice-pwd:.*/), ...extra, ''].join('\\r\\n');
  };
  const patch = (etag, body) => fetch(window.voicerelay.resource, {
    method: 'PATCH', body,
    headers: {'Content-Type': 'application/trickle-ice-sdpfrag', 'If-Match': etag},
  });
"""

RESTART_JS = f"""(async () => {{
  {PATCH_JS}
  const pc = window.voicerelay.pc;
  const old = pc.remoteDescription.sdp;
  pc.restartIce();
  await pc.setLocalDescription(await pc.createOffer());
  const response = await patch('"*"', fragment(pc.localDescription.sdp, []));
  const body = await response.text();
  const credential = name => (body.match(new RegExp('a=ice-' + name + ':(\\\\S+)')) || [])[1];
  const [ufrag, pwd] = [credential('ufrag'), credential('pwd')];
  if (response.status === 200) {{
    await pc.setRemoteDescription({{type: 'answer', sdp: old
      .replace(/a=ice-ufrag:\\S+/g, 'a=ice-ufrag:' + ufrag)
      .replace(/a=ice-pwd:\\S+/g, 'a=ice-pwd:' + pwd)}});
  }}
  const before = old.match(/a=ice-ufrag:(\\S+)/)[1];
  return {{status: response.status, type: response.headers.get('Content-Type'),
          etag: response.headers.get('ETag'), body, before, ufrag, pwd}};
}})()"""

TRICKLE_LOCAL_JS = f"""(async () => {{
  {PATCH_JS}
  const candidate = 'a=candidate:1 1 udp 2113937151 ' +
    '8d1c9a52-5b5e-4d5c-9f5e-0f4f5e0a1b2c.local 50000 typ host';
  const body = fragment(window.voicerelay.pc.localDescription.sdp, [candidate]);
  return (await patch(window.voicerelay.etag, body)).status;
}})()"""

# The pair in use: the browser's ufrag in it, and how many bytes it has brought so far.
SELECTED_PAIR_JS = """(async () => {
  const stats = await window.voicerelay.pc.getStats();
  const transport = [...stats.values()].find(s => s.type === 'transport');
  const pair = transport && stats.get(transport.selectedCandidatePairId) ||
    [...stats.values()].find(s => s.type === 'candidate-pair' && s.selected);
  return pair && {received: pair.bytesReceived,
                  ufrag: stats.get(pair.localCandidateId)?.usernameFragment};
})()"""

MUTE_JS = """(async () => {
  const [track] = window.voicerelay.localStream.getAudioTracks();
  const off = performance.now();
  track.enabled = false;
  await new Promise(done => setTimeout(done, 1000));
  track.enabled = true;
  return {off, on: performance.now()};
})()"""


# The page itself opens no data channel; this lets it open one with its call.
CHANNEL_JS = """(() => {
  const Stock = window.RTCPeerConnection;
  window.__said = [];
  window.RTCPeerConnection = class extends Stock {
    constructor(...how) {
      super(...how);
      window.__channel = this.createDataChannel('chat');
      window.__channel.onmessage = event => window.__said.push(event.data);
    }
  };
})()"""


class Heard(NamedTuple):
    """A recording, and how much of it the browser made up for packets that did not come."""

    samples: list[Sample]
    concealed_ms: float


@pytest.fixture
def echo() -> Iterator[Server]:
    """A server that echoes every voice; it must also end well."""
    with server() as running:
        yield running
        assert running.stop() == 0
    assert "Traceback" not in running.output


@pytest.fixture
def voice(tmp_path: Path) -> Path:
    """A WAV of one tone for Chromium; whole periods, so it loops without a click."""
    return tones.write_wav(tmp_path / "voice.wav", [CHROMIUM_HZ], step_s=1)


@pytest.fixture(params=["chromium", "firefox"])
def opened(
    request: pytest.FixtureRequest, voice: Path
) -> Callable[[], AbstractAsyncContextManager[Browser]]:
    """Opens the browser of this parameter."""
    if request.param == "chromium":
        return lambda: chromium(voice=voice)
    return lambda: firefox(voice_hz=FIREFOX_HZ)


def voice_hz(browser: Browser) -> int:
    return CHROMIUM_HZ if browser.name == "chromium" else FIREFOX_HZ


async def text(browser: Browser, element: str) -> str:
    """What the page shows in the element of that id."""
    return str(await browser.evaluate(f"document.getElementById('{element}').textContent.trim()"))


async def dial(browser: Browser, url: str, before: str = "null") -> str:
    """Open the page and press "call"; returns the state in which the attempt comes to rest.

    before: JavaScript to run in the page before the call.
    """
    await browser.goto(f"{url}/?raw=1")
    await browser.evaluate(before)
    await browser.evaluate("document.getElementById('call').click()")
    await browser.wait_for(
        "['connected', 'failed', 'ended']"
        ".includes(document.getElementById('state').textContent.trim())",
        REST_TIMEOUT_S,
    )
    return await text(browser, "state")


async def connect(browser: Browser, url: str, before: str = "null") -> None:
    """Call, and start to listen; returns once the own voice comes back."""
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        state = await dial(browser, url, before)
    assert state == "connected", f"{browser.name}: {state}: {await text(browser, 'error')}"
    await browser.evaluate(tones.RECORD_JS)
    await browser.wait_for(
        f"window.__tone.some(s => s.level >= {tones.SILENCE_LEVEL})", HEAR_TIMEOUT_S
    )


async def hang_up(browser: Browser) -> None:
    """Press "hang up" and wait until the page calls the call ended."""
    await browser.evaluate("document.getElementById('hangup').click()")
    await browser.wait_for(
        "document.getElementById('state').textContent.trim() === 'ended'", END_TIMEOUT_S
    )


async def listen(browser: Browser, seconds: float) -> Heard:
    """What the browser hears from now on for `seconds`."""
    concealed_ms = -await browser.evaluate(tones.CONCEALED_MS_JS)
    # One sample before now may still hold the silence of the start.
    start = await browser.evaluate("performance.now() + 100")
    await asyncio.sleep(seconds)
    recorded = await browser.evaluate(f"window.__tone.filter(s => s.t >= {start})")
    concealed_ms += await browser.evaluate(tones.CONCEALED_MS_JS)
    return Heard(tones.samples(recorded), concealed_ms)


def assert_tone(browser: Browser, heard: Heard, seconds: float) -> None:
    """The right tone, nearly always, with no hole, and the page was awake to hear it."""
    near = tones.fraction_near(heard.samples, voice_hz(browser))
    gap = tones.longest_gap_ms(heard.samples)
    said = (
        f"{browser.name}: {near:.1%} of {len(heard.samples)} samples right, "
        f"gap {gap:.0f} ms, concealed {heard.concealed_ms:.0f} ms"
    )
    log.info(said)
    assert len(heard.samples) >= 0.8 * seconds * 1000 / tones.SAMPLE_MS, said
    assert near >= 0.97, said
    assert gap <= MAX_GAP_MS, said
    assert heard.concealed_ms <= MAX_CONCEALED_MS, said


def sessions(status: dict[str, Any]) -> int:
    return sum(transceiver["sessions"] for transceiver in status["transceivers"])


async def wait_for_sessions(running: Server, count: int) -> None:
    """The server's own count of sessions becomes `count`; control learns it by heartbeats."""
    deadline = time.monotonic() + STATUS_TIMEOUT_S
    while (seen := sessions(await asyncio.to_thread(running.status))) != count:
        assert time.monotonic() < deadline, f"{seen} sessions, not {count}"
        await asyncio.sleep(0.2)


@pytest.mark.alone
@pytest.mark.timeout(240)
@pytest.mark.parametrize("steering", ["off", "on"])
def test_call_returns_the_tone_as_long_as_it_lasts(voice: Path, steering: str) -> None:
    if steering == "on" and (reason := steering_unavailable()):
        pytest.skip(f"kernel steering: {reason}")

    async def call(browser: Browser, url: str) -> None:
        await connect(browser, url)

        heard = await listen(browser, CALL_S[steering])

        assert_tone(browser, heard, CALL_S[steering])
        assert await text(browser, "state") == "connected"
        stats = await browser.evaluate("window.voicerelay.stats")
        log.info("%s: %s", browser.name, stats)
        assert 0 <= stats["rtt_ms"] < 500
        # Steered packets come past the relays.
        assert (await text(browser, "relay")).isdigit() == (steering == "off")
        assert (await text(browser, "transceiver")).isdigit()

    async def both(url: str) -> None:
        async with chromium(voice=voice) as one, firefox(voice_hz=FIREFOX_HZ) as other:
            await asyncio.gather(call(one, url), call(other, url))

    with server(extra=("--steering", steering)) as running:
        asyncio.run(both(running.http_url))
        assert running.stop() == 0
    assert "Traceback" not in running.output


@pytest.mark.alone
def test_tones_arrive_in_order_and_on_time(echo: Server, tmp_path: Path) -> None:
    wav = tones.write_wav(tmp_path / "steps.wav")

    async def scenario() -> None:
        async with chromium(voice=wav) as browser:
            await connect(browser, echo.http_url)

            heard = tones.steps((await listen(browser, 10)).samples)

            order = [hz for _, hz in heard]
            first = tones.STEPS_HZ.index(order[0])
            expected = [tones.STEPS_HZ[(first + i) % 4] for i in range(len(order))]
            assert len(order) >= 18
            assert order == expected
            # The first step was already sounding when the recording began.
            lengths = [b[0] - a[0] for a, b in itertools.pairwise(heard[1:])]
            log.info("steps of %.0f to %.0f ms", min(lengths), max(lengths))
            assert all(abs(ms - 1000 * tones.STEP_S) <= 150 for ms in lengths), lengths

    asyncio.run(scenario())


def test_muted_microphone_is_silent_and_comes_back(
    echo: Server, opened: Callable[[], AbstractAsyncContextManager[Browser]]
) -> None:
    async def scenario() -> None:
        async with opened() as browser:
            await connect(browser, echo.http_url)
            listening = asyncio.create_task(listen(browser, 4))
            # Listening first: the tone must have been there before it can vanish.
            await browser.evaluate("new Promise(done => setTimeout(done, 1000))")

            done = await browser.evaluate(MUTE_JS)
            changes = tones.edges((await listening).samples)

            seen = [audible for _, audible in changes]
            assert seen == [True, False, True], changes
            delays = [changes[1][0] - done["off"], changes[2][0] - done["on"]]
            log.info("%s: silent after %.0f ms, back after %.0f ms", browser.name, *delays)
            assert all(0 <= ms <= MAX_EDGE_DELAY_MS for ms in delays), delays

    asyncio.run(scenario())


def test_hang_up_ends_the_session_on_the_server(
    echo: Server, opened: Callable[[], AbstractAsyncContextManager[Browser]]
) -> None:
    async def scenario() -> None:
        async with opened() as browser:
            await connect(browser, echo.http_url)
            session = await browser.evaluate("window.voicerelay.resource.split('/').pop()")
            ask = f"fetch('/sessions/{session}').then(r => r.status)"
            assert await browser.evaluate(ask) == 200
            await wait_for_sessions(echo, 1)

            await hang_up(browser)

            await browser.wait_for(f"{ask}.then(s => s === 404)", END_TIMEOUT_S)
            await wait_for_sessions(echo, 0)

    asyncio.run(scenario())


def test_full_server_says_so_and_takes_calls_again_later(voice: Path) -> None:
    async def scenario(running: Server) -> None:
        url = running.http_url
        async with chromium(voice=voice) as first, firefox(voice_hz=FIREFOX_HZ) as second:
            await connect(first, url)

            assert await dial(second, url) == "failed"
            assert "full" in (await text(second, "error")).lower()

            await hang_up(first)
            await wait_for_sessions(running, 0)
            await connect(second, url)

    with server(transceivers=1, extra=("--max-sessions", "1")) as running:
        asyncio.run(scenario(running))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("opened", ["chromium"], indirect=True)  # the page's own words
def test_blocked_udp_names_the_address_that_was_tried(
    opened: Callable[[], AbstractAsyncContextManager[Browser]],
) -> None:
    async def scenario(running: Server) -> None:
        async with opened() as browser:
            assert await dial(browser, running.http_url) == "failed"

            error = await text(browser, "error")
            assert "127.0.0.9" in error
            assert str(running.port) in error

    # Nobody listens at that address.
    with server(extra=("--public-ip", "127.0.0.9")) as running:
        asyncio.run(scenario(running))


@pytest.mark.alone
def test_ice_restart_during_a_call_is_not_heard(
    echo: Server, opened: Callable[[], AbstractAsyncContextManager[Browser]]
) -> None:
    async def scenario() -> None:
        async with opened() as browser:
            await connect(browser, echo.http_url)
            before = await browser.evaluate(SELECTED_PAIR_JS)
            etag = await browser.evaluate("window.voicerelay.etag")

            listening = asyncio.create_task(listen(browser, 10))
            answer = await browser.evaluate(RESTART_JS)
            heard = await listening

            assert answer["status"] == 200, answer
            assert answer["type"].startswith("application/trickle-ice-sdpfrag")
            assert answer["etag"] not in (None, etag)
            assert answer["ufrag"] not in (None, answer["before"])
            assert len(answer["pwd"]) >= 22  # RFC 8445 §5.3: 128 bits
            assert_tone(browser, heard, 10)
            after = await browser.evaluate(SELECTED_PAIR_JS)
            assert after["ufrag"] not in (None, before["ufrag"])
            assert after["received"] > 0

    asyncio.run(scenario())


@pytest.mark.alone
def test_trickled_mdns_candidate_is_accepted_and_ignored(
    echo: Server, opened: Callable[[], AbstractAsyncContextManager[Browser]]
) -> None:
    async def scenario() -> None:
        async with opened() as browser:
            await connect(browser, echo.http_url)

            assert await browser.evaluate(TRICKLE_LOCAL_JS) == 204

            assert_tone(browser, await listen(browser, 3), 3)

    asyncio.run(scenario())


@pytest.mark.alone
def test_an_agent_hears_says_and_writes_back(voice: Path) -> None:
    async def scenario(running: Server) -> None:
        async with chromium(voice=voice) as browser:
            # given a call with an agent that decodes and encodes, and a data channel
            await connect(browser, running.http_url, CHANNEL_JS)
            await browser.wait_for("window.__channel.readyState === 'open'", CONNECT_TIMEOUT_S)

            # when something is said and something is written
            await browser.evaluate("window.__channel.send('grüß dich')")
            heard = await listen(browser, 4)

            # then both come back
            assert_tone(browser, heard, 4)
            assert await browser.evaluate("window.__said") == ["GRÜSS DICH"]

    with server(relays=1, transceivers=1, app="tests.support.agents:app") as running:
        asyncio.run(scenario(running))
        assert running.stop() == 0
    assert "Traceback" not in running.output
