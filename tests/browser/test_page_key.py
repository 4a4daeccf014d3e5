"""The demo page of a server that wants a key."""

import asyncio
from pathlib import Path

import pytest

from tests.support.browsers import CHROMIUM, chromium
from tests.support.server import server

pytestmark = [
    pytest.mark.browser,
    pytest.mark.system,
    pytest.mark.skipif(not CHROMIUM, reason="needs chromium"),
]
KEY = "web-key-0123456789abcdef"
CONNECT_TIMEOUT_S = 20


def test_the_page_asks_for_the_key_and_calls_with_it(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(KEY)

    async def run(url: str) -> None:
        async with chromium() as browser:
            # given the page, which has no key yet
            await browser.goto(url)
            await browser.wait_for("!document.getElementById('key-field').hidden", 5)
            await browser.evaluate("void document.getElementById('call').click()")
            await browser.wait_for("window.voicerelay.error?.code === 'unauthorized'", 10)

            # when the key is typed
            await browser.evaluate(
                f"""(() => {{
                  const key = document.getElementById('key');
                  key.value = '{KEY}';
                  key.dispatchEvent(new Event('change'));
                  document.getElementById('call').click();
                }})()"""
            )

            # then it calls, sees the call's figures, and hangs up
            state = "document.querySelector('main').dataset.state"
            await browser.wait_for(f"{state} === 'connected'", CONNECT_TIMEOUT_S)
            await browser.wait_for("window.voicerelay.stats.transceiver !== null", 10)
            await browser.evaluate("void document.getElementById('hangup').click()")
            await browser.wait_for(f"{state} === 'ended'", 10)

    with server(extra=["--api-key-file", str(path)]) as running:
        asyncio.run(run(running.http_url))
