"""The operator's page in a real browser: with no call, with hundreds, and with hostile words in their figures."""

import asyncio
import json
from typing import Any

import pytest
from aiohttp.test_utils import TestServer

from tests.support.browsers import CHROMIUM, chromium
from tests.unit.cli.admin.looks import MARKUP, call, look
from voicerelay.cli.admin.snapshot import Snapshot
from voicerelay.cli.admin.web import AdminWeb

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="needs chromium"),
]
PATIENCE_S = 20
MANY = 400
BAD = {"rtt_ms": 900.0, "fraction_lost_out": 0.2}


class Changing:
    """A looker whose instance changes at every look."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.looks = 0

    def status(self) -> dict[str, Any]:
        return look().status

    async def look(self, calls: bool) -> Snapshot:
        self.looks += 1
        told = [one | {"packets_in": 100 + 50 * self.looks} for one in self.calls]
        seen = look(transceivers=(20, 21), calls=told, app=MARKUP)
        return Snapshot(float(self.looks), seen.status, seen.figures, seen.calls)


def many() -> list[dict[str, Any]]:
    """Calls of two transceivers, a few of them bad, one with a name that is markup."""
    made = [call(f"c{n:05}", slot=n % 2, **(BAD if n % 50 == 0 else {})) for n in range(MANY)]
    made[7] |= {"key": MARKUP, "state": "checking"}
    return made


def test_the_page_shows_nothing_hundreds_and_hostile_words() -> None:
    async def run() -> None:
        looker = Changing()
        app = AdminWeb(looker, private=True).application()  # type: ignore[arg-type]
        async with TestServer(app) as server, chromium() as browser:
            # given an instance without a call
            await browser.goto(str(server.make_url("/")))
            await browser.wait_for("document.getElementById('state').textContent === 'ready'", 20)
            assert await browser.evaluate("document.getElementById('calls').hidden")

            # when hundreds call
            looker.calls = many()
            await browser.wait_for(
                f"document.querySelectorAll('.calls .dot').length === {MANY}", 20
            )

            # then all are in the map, a hundred in the table, and the bad ones stand out
            rows = "document.querySelectorAll('#calls tbody tr').length"
            assert await browser.evaluate(rows) == 100
            bad = "document.querySelectorAll('.calls .dot.bad').length"
            assert await browser.evaluate(bad) == MANY // 50

            # when a transceiver is once too busy to answer, its calls stay
            looker.calls = [one for one in many() if one["slot"] == 0]
            looks = looker.looks
            async with asyncio.timeout(PATIENCE_S):
                while looker.looks < looks + 2:
                    await asyncio.sleep(0.1)
            dots = "document.querySelectorAll('.calls .dot').length"
            assert await browser.evaluate(dots) == MANY

            # when one looks for one of them by its hostile name
            await browser.evaluate(
                f"""(() => {{ const filter = document.getElementById('filter');
                  filter.value = {json.dumps(MARKUP)}; filter.oninput(); }})()"""
            )

            # then it is text, and so is the name of the app
            assert await browser.evaluate(rows) == 1
            assert await browser.evaluate("document.querySelectorAll('img').length") == 0
            about = "document.getElementById('about').textContent"
            assert MARKUP in await browser.evaluate(about)
            assert await browser.evaluate("document.getElementById('tiles').children.length") == 7
            assert browser.console == []  # nor has the policy refused anything

    asyncio.run(run())
