"""HTTP of the contracts: offers a call, ends it. A thin shell around contracts.py."""

import asyncio

import aiohttp

from voicerelay.cli.loadtest.contracts import Ask, Declined, Opened, ask, opened
from voicerelay.cli.loadtest.sdp import MAX_ANSWER_BYTES

REQUEST_TIMEOUT_S = 15.0


class Signalling:
    """For all calls of a process. key: API key or token; empty for none."""

    def __init__(self, http: aiohttp.ClientSession, contract: str, url: str, key: str) -> None:
        self._http = http
        self._contract = contract
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    async def open(self, sdp: str, name: str) -> Opened:
        """Raises Declined."""
        status, location, body = await self._request(ask(self._contract, self._url, sdp, name))
        return opened(self._contract, self._url, status, location, body)

    async def close(self, goodbye: Ask) -> int:
        """The HTTP status. Raises Declined."""
        status, _, _ = await self._request(goodbye)
        return status

    async def _request(self, what: Ask) -> tuple[int, str, str]:
        headers = self._headers | dict(what.headers)
        try:
            async with (
                asyncio.timeout(REQUEST_TIMEOUT_S),
                self._http.request(
                    what.method,
                    what.url,
                    data=what.body or None,
                    headers=headers,
                    allow_redirects=False,
                ) as response,
            ):
                body = await response.content.read(MAX_ANSWER_BYTES)
                location = response.headers.get("Location", "")
                return response.status, location, body.decode("utf-8", "replace")
        except TimeoutError:
            raise Declined(f"no HTTP answer in {REQUEST_TIMEOUT_S:.0f} s") from None
        except aiohttp.ClientError as exc:
            raise Declined(f"HTTP: {type(exc).__name__}") from None
