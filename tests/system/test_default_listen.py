"""Without --listen the server takes the address that others, and browsers on this host, can call."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from tests.support import netns, tones
from tests.support.browsers import CHROMIUM, FIREFOX, Browser, chromium, firefox
from tests.support.netns import PEER_V4, PEER_V6, SERVER_V4, SERVER_V6, Namespace

pytestmark = [
    pytest.mark.netns,
    pytest.mark.system,
    pytest.mark.skipif(bool(netns.obstacle()), reason=netns.obstacle()),
]

CONNECT_TIMEOUT_S = 30  # the page gives up by itself before
AT_ONCE_S = 5  # from the click to "connected"; a browser's own first retries end before
HEAR_TIMEOUT_S = 10
LISTEN_S = 3
VOICE_HZ = 700
LOOPBACK = "127.0.0.1"

STATE = "document.getElementById('state').textContent.trim()"
REST = f"['connected', 'failed', 'ended'].includes({STATE})"
AUDIBLE = f"window.__tone.some(s => s.level >= {tones.SILENCE_LEVEL})"


@pytest.fixture
def host() -> Iterator[Namespace]:
    """A usual machine: one address and a default route."""
    with netns.pair(v4=True) as hosts:
        hosts.server.default_route(PEER_V4)
        yield hosts.server


def listens_on(host: Namespace) -> list[str]:
    """What a server without --listen takes."""
    with netns.serving(host, http=LOOPBACK) as running:
        listen: list[str] = running.status()["listen"]
        assert f"UDP port {running.port} on {', '.join(listen)}\n" in running.output
        return listen


@pytest.mark.browser
@pytest.mark.skipif(not (CHROMIUM and FIREFOX), reason="needs chromium and firefox-esr")
@pytest.mark.parametrize("name", ["chromium", "firefox"])
def test_browser_of_the_same_host_calls_at_once(host: Namespace, name: str, tmp_path: Path) -> None:
    voice = tones.write_wav(tmp_path / "voice.wav", [VOICE_HZ], step_s=1)
    openers: dict[str, Callable[[], AbstractAsyncContextManager[Browser]]] = {
        "chromium": lambda: chromium(voice=voice),
        # A user's Firefox calls no loopback address.
        "firefox": lambda: firefox(voice_hz=VOICE_HZ, loopback=False),
    }

    async def scenario() -> None:
        async with openers[name]() as browser:
            # When the page is opened as the README says, and "call" is pressed
            await browser.goto(f"http://localhost:{netns.HTTP_PORT}/?raw=1")
            clicked = time.monotonic()
            await browser.evaluate("document.getElementById('call').click()")
            await browser.wait_for(REST, CONNECT_TIMEOUT_S)
            needed_s = time.monotonic() - clicked

            # Then the call is up at once and the own voice comes back
            error = await browser.evaluate("document.getElementById('error').textContent.trim()")
            assert await browser.evaluate(STATE) == "connected", error
            print(f"{name}: connected in {needed_s:.2f} s")  # noqa: T201 - for pytest -rP
            assert needed_s < AT_ONCE_S
            await browser.evaluate(tones.RECORD_JS)
            await browser.wait_for(AUDIBLE, HEAR_TIMEOUT_S)
            first = await browser.evaluate("window.__tone.length")
            await browser.wait_for(
                f"window.__tone.length >= {first} + {LISTEN_S * 1000 / tones.SAMPLE_MS}",
                LISTEN_S + HEAR_TIMEOUT_S,
            )
            heard = tones.samples(await browser.evaluate(f"window.__tone.slice({first})"))
            assert tones.fraction_near(heard, VOICE_HZ) >= 0.97

    # Given a server that was started without any --listen
    with netns.serving(host, http=LOOPBACK), host.entered():
        asyncio.run(scenario())


def test_address_of_the_default_route_is_taken() -> None:
    with netns.namespace("server") as host, netns.namespace("router") as router:
        netns.link(host, router, ["10.0.0.2/24"], ["10.0.0.1/24"])
        netns.link(host, router, [f"{SERVER_V4}/24"], [f"{PEER_V4}/24"])
        host.default_route(PEER_V4)

        assert listens_on(host) == [SERVER_V4]


def test_host_without_a_default_route_still_has_an_address() -> None:
    with netns.pair(v4=True) as hosts:
        assert listens_on(hosts.server) == [SERVER_V4]


@pytest.mark.skipif(not netns.has_ipv6(), reason="needs a kernel with IPv6")
def test_host_with_ipv6_only_listens_there() -> None:
    with netns.pair(v6=True) as hosts:
        hosts.server.default_route(PEER_V6)

        assert listens_on(hosts.server) == [SERVER_V6]


def test_host_without_any_network_listens_on_loopback() -> None:
    with netns.namespace("server") as host:
        assert listens_on(host) == [LOOPBACK]
