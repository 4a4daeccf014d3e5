"""Bad networks between the callers and the server: the tests' seeded proxies, on a loop in a thread of its own."""

import asyncio
import threading
from collections.abc import Callable

import uvloop

from tests.support.impair import Impairment
from tests.support.proxy import Address, Proxy


class Networks:
    """One proxy for each call: stock aiortc has a port for each of them. Clean until `spoil`."""

    def __init__(self, impairments: list[Impairment], seed: int) -> None:
        self._impairments = impairments
        self._seed = seed
        self._proxies: list[tuple[Proxy, Impairment]] = []
        self._loop = uvloop.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def between(self, index: int, server: Address) -> Address:
        """Where call number `index` sends to instead of to the server."""

        async def make() -> Proxy:
            return Proxy(server, self._seed + index)

        proxy = asyncio.run_coroutine_threadsafe(make(), self._loop).result()
        self._proxies.append((proxy, self._impairments[index % len(self._impairments)]))
        return proxy.address

    def spoil(self) -> None:
        """What is sent to the server suffers from now on."""
        self._do(lambda proxy, how: proxy.impair(to_server=how))

    def mend(self) -> None:
        """It does no more."""
        self._do(lambda proxy, _: proxy.impair())

    def figures(self) -> dict[str, int]:
        """Of the voice: packets, and those that were lost; and what the proxies themselves dropped."""
        ways = [proxy.to_server for proxy, _ in self._proxies]
        backs = [proxy.to_client for proxy, _ in self._proxies]
        return {
            "voice": sum(way.voice for way in ways),
            "voice_lost": sum(way.voice_lost for way in ways),
            "dropped_by_proxies": sum(way.dropped for way in ways + backs),
        }

    def _do(self, change: Callable[[Proxy, Impairment], None]) -> None:
        for proxy, how in self._proxies:
            self._loop.call_soon_threadsafe(change, proxy, how)
