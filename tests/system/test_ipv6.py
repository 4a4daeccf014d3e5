"""Calls over IPv6, alone and beside IPv4, and what a wildcard listens on."""

import asyncio
import re
from collections.abc import Iterator, Sequence

import pytest

from tests.support import netns
from tests.support.callers import callers, heard_all
from tests.support.netns import PEER_V4, PEER_V6, SERVER_V4, SERVER_V6, Namespace, Pair
from tests.support.server import ServerError

pytestmark = [
    pytest.mark.netns,
    pytest.mark.system,
    pytest.mark.skipif(bool(netns.obstacle()), reason=netns.obstacle()),
    pytest.mark.skipif(not netns.has_ipv6(), reason="needs a kernel with IPv6"),
]

CANDIDATE = re.compile(
    r"^a=candidate:\S+ 1 udp (?P<priority>\d+) (?P<host>\S+) (?P<port>\d+)", re.M
)
LINK_LOCAL = "fe80::10"
SECOND_V6 = "2001:db8:2::10"


@pytest.fixture
def v6() -> Iterator[Pair]:
    with netns.pair(v6=True) as hosts:
        yield hosts


@pytest.fixture
def both() -> Iterator[Pair]:
    with netns.pair(v4=True, v6=True) as hosts:
        yield hosts


def call_from(host: Namespace, url: str) -> list[tuple[str, int]]:
    """Call from a host and be heard; the candidates in the answer."""

    async def scenario() -> list[tuple[str, int]]:
        async with callers(url, 1) as ([call], _):
            await call.talk(1)
            assert await heard_all(call, 0)
            return candidates(call.answer)

    with host.entered():
        return asyncio.run(scenario())


def candidates(answer: str) -> list[tuple[str, int]]:
    """Host and port of each candidate, best first."""
    found = [(int(m["priority"]), m["host"], int(m["port"])) for m in CANDIDATE.finditer(answer)]
    return [(host, port) for _, host, port in sorted(found, reverse=True)]


def test_call_over_ipv6_alone(v6: Pair, plane_options: Sequence[str]) -> None:
    with netns.serving(v6.server, listen=[SERVER_V6], extra=plane_options) as running:
        assert call_from(v6.client, running.http_url) == [(SERVER_V6, running.port)]

        assert running.status()["listen"] == [SERVER_V6]


def test_both_families_are_offered_in_the_order_given(
    both: Pair, plane_options: Sequence[str]
) -> None:
    listen = [SERVER_V6, SERVER_V4]
    with netns.serving(both.server, listen=listen, extra=plane_options) as running:
        offered = call_from(both.client, running.http_url)

        assert offered == [(SERVER_V6, running.port), (SERVER_V4, running.port)]


@pytest.mark.parametrize(
    ("client_end", "web"),
    [(f"{PEER_V4}/24", SERVER_V4), (f"{PEER_V6}/64", SERVER_V6)],
    ids=["v4", "v6"],
)
def test_client_of_one_family_calls_a_server_of_both(
    plane_options: Sequence[str], client_end: str, web: str
) -> None:
    server_ends = [f"{SERVER_V4}/24", f"{SERVER_V6}/64"]
    with netns.namespace("server") as host, netns.namespace("client") as client:
        netns.link(host, client, server_ends, [client_end])
        listen = [SERVER_V4, SERVER_V6]
        with netns.serving(host, listen=listen, http=web, extra=plane_options) as running:
            assert len(call_from(client, running.http_url)) == 2


def test_wildcard_is_every_routable_ipv6_address(v6: Pair) -> None:
    v6.server.add_addresses(f"{LINK_LOCAL}/64")
    other = netns.link(v6.server, v6.client, [f"{SECOND_V6}/64"], ["2001:db8:2::20/64"])
    assert other == ("eth1", "eth1")

    with netns.serving(v6.server, listen=["::"], http=SERVER_V6) as running:
        offered = call_from(v6.client, running.http_url)

        assert {host for host, _ in offered} == {SERVER_V6, SECOND_V6}
        assert set(running.status()["listen"]) == {SERVER_V6, SECOND_V6}


def test_both_wildcards_are_all_addresses(both: Pair) -> None:
    with netns.serving(both.server, listen=["0.0.0.0", "::"], http=SERVER_V4) as running:
        offered = call_from(both.client, running.http_url)

        assert [host for host, _ in offered] == [SERVER_V4, SERVER_V6]


def test_link_local_address_is_refused_with_advice(v6: Pair) -> None:
    v6.server.add_addresses(f"{LINK_LOCAL}/64")

    # A candidate cannot say which interface it means, so nobody could call it.
    with (
        pytest.raises(ServerError, match=f"--listen: {LINK_LOCAL}.*routable address"),
        netns.serving(v6.server, listen=[SERVER_V6, LINK_LOCAL]),
    ):
        pass
