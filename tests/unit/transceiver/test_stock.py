"""Calls of the app's own peer connections: counted, reached, swept and ended like sessions."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.unit.transceiver.test_registry import figures, registry
from tests.unit.transceiver.test_session import (
    ALERT,
    HANDSHAKE,
    WAIT_S,
    Client,
    Host,
    host,
)
from voicerelay.shm import stun
from voicerelay.shm.counters import TransceiverCounter
from voicerelay.transceiver.directory import CONTROL_GONE, DirectoryError
from voicerelay.transceiver.ice import CONSENT_EXPIRY_S, SILENCE_S
from voicerelay.transceiver.registry import Registry, ServerFull
from voicerelay.transceiver.session import SETUP_TIMEOUT_S
from voicerelay.transceiver.signalling.owners import owner_key
from voicerelay.transceiver.stock import MAX_KEYS, StockCall, StockHost, begun_by_request

SRTP = b"\x80\x6f" + bytes(30)
Counter = TransceiverCounter


class FakeTransport:
    """A transport of aiortc's, without anything behind it."""

    def __init__(self, call: StockCall, room: int = 100) -> None:
        self.taken: list[bytes] = []
        self.readied = self.goodbyes = 0
        self._call = call
        self._room = room
        call.attach(self)

    def ready(self) -> None:
        self.readied += 1

    def take(self, data: bytes, path: bytes) -> bool:
        if len(self.taken) >= self._room:
            return False
        self.taken.append(data)
        return True

    async def goodbye(self) -> None:
        self.goodbyes += 1


class Stage:
    """A host of stock calls, over a fake control and real sockets."""

    def __init__(self, here: Host, most: int) -> None:
        self.here = here
        self.registry: Registry = registry(here, most)
        self.stock = StockHost(self.registry, here.mux, here.directory)
        self.calls: list[StockCall] = []

    async def call(self) -> tuple[StockCall, FakeTransport]:
        """A call that has begun and whose client is known."""
        call = self.stock.call(None)
        self.calls.append(call)
        transport = FakeTransport(call)
        await call.begin()
        call.met("client")
        return call, transport


@contextlib.asynccontextmanager
async def stage(most: int = 3) -> AsyncIterator[Stage]:
    async with host() as here:
        made = Stage(here, most)
        try:
            yield made
        finally:
            async with asyncio.timeout(WAIT_S):
                for call in made.calls:
                    call.end("the test is over")
                    await call.ended.wait()


def check(client: Client, call: StockCall, nominate: bool = False, remote: str = "client") -> None:
    attributes = [(stun.USERNAME, f"{call.ufrag}:{remote}".encode())]
    if nominate:
        attributes.append((stun.USE_CANDIDATE, b""))
    transaction = next(Client._numbers).to_bytes(12, "big")
    key = call.password.encode()
    client.send(stun.build(stun.BINDING_REQUEST, transaction, attributes, key))


def begun_at(call: StockCall) -> float:
    return call._begun_at


# ---- life ----------------------------------------------------------------------------------------


def test_a_call_counts_from_its_beginning_until_its_last_transport_is_closed() -> None:
    async def run() -> None:
        async with stage() as here:
            # given a peer connection that gathers nothing yet
            call = here.stock.call(None)
            first, second = FakeTransport(call), FakeTransport(call)
            assert (here.registry.sessions, here.here.directory.routes) == (0, {})

            # when both its transports gather
            await asyncio.gather(call.begin(), call.begin())
            assert figures(here.here) == (1, 1)
            assert list(here.here.directory.routes) == [call.ufrag.encode()]

            # then bundling closes one, and hanging up the other
            call.detach(second)
            assert here.registry.sessions == 1
            call.detach(first)
            assert here.registry.sessions == 0
            await call.ended.wait()
            assert (here.here.directory.routes, here.here.mux.by_ufrag) == ({}, {})
            assert (first.goodbyes, second.goodbyes) == (0, 0)

    asyncio.run(run())


def test_a_peer_connection_that_never_gathers_leaves_nothing() -> None:
    async def run() -> None:
        async with stage() as here:
            call = here.stock.call(None)
            transport = FakeTransport(call)

            call.detach(transport)

            await call.ended.wait()
            assert figures(here.here) == (0, 0)

    asyncio.run(run())


def test_a_full_transceiver_takes_no_further_peer_connection() -> None:
    async def run() -> None:
        async with stage(most=1) as here:
            first, _ = await here.call()

            with pytest.raises(ServerFull):
                await here.stock.call(None).begin()

            first.end("over")
            await here.call()

    asyncio.run(run())


@pytest.mark.parametrize("error", [CONTROL_GONE, "route table full"])
def test_a_call_without_a_route_does_not_begin(error: str) -> None:
    async def run() -> None:
        async with stage() as here:
            here.here.directory.error = error

            with pytest.raises(DirectoryError, match=error):
                await here.stock.call(None).begin()

            assert figures(here.here) == (0, 0)

    asyncio.run(run())


def test_a_call_that_is_closed_while_control_is_asked_leaves_no_route() -> None:
    async def run() -> None:
        async with stage() as here:
            here.here.directory.go_on.clear()
            call = here.stock.call(None)
            transport = FakeTransport(call)
            beginning = asyncio.ensure_future(call.begin())
            await asyncio.sleep(0)

            call.detach(transport)
            await call.ended.wait()
            here.here.directory.go_on.set()
            await beginning

            assert here.here.directory.routes == {}

    asyncio.run(run())


def test_a_request_knows_the_calls_it_has_begun() -> None:
    async def run() -> None:
        async with stage() as here:
            begun: list[StockCall] = []
            begun_by_request.set(begun)

            call, _ = await here.call()

            assert begun == [call]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("established", "after_s", "ends"),
    [
        (False, SETUP_TIMEOUT_S - 1, False),
        (False, SETUP_TIMEOUT_S + 1, True),
        (True, CONSENT_EXPIRY_S - 1, False),
        (True, CONSENT_EXPIRY_S + 1, True),
    ],
)
def test_a_client_that_goes_silent_ends_the_call(
    established: bool, after_s: float, ends: bool
) -> None:
    async def run() -> None:
        async with stage() as here:
            call, transport = await here.call()
            if established:
                call.established()

            call.sweep(begun_at(call) + after_s)

            assert (here.registry.sessions == 0) is ends
            if ends:
                await call.ended.wait()
            assert transport.goodbyes == int(ends)

    asyncio.run(run())


def test_a_transceiver_that_stops_says_goodbye() -> None:
    async def run() -> None:
        async with stage() as here:
            _, transport = await here.call()

            await here.registry.close_all("stopping")

            assert transport.goodbyes == 1

    asyncio.run(run())


# ---- packets -------------------------------------------------------------------------------------


def test_dtls_and_media_of_a_checked_path_reach_the_first_transport() -> None:
    async def run() -> None:
        async with stage() as here:
            call, transport = await here.call()
            spare, client = FakeTransport(call), here.here.client()

            check(client, call)
            client.send(HANDSHAKE)
            client.send(SRTP)

            assert (client.replies(), transport.readied, spare.readied) == (1, 1, 0)
            assert (transport.taken, spare.taken) == ([HANDSHAKE, SRTP], [])
            assert here.here.balance() == (3, 3)

    asyncio.run(run())


def test_a_check_of_another_client_than_the_offers_is_not_answered() -> None:
    async def run() -> None:
        async with stage() as here:
            call, _ = await here.call()
            client = here.here.client()

            check(client, call, remote="somebody")

            assert client.replies() == 0
            assert here.here.dropped() == {Counter.DROPPED_BAD_INTEGRITY: 1}

    asyncio.run(run())


def test_what_may_not_pass_is_dropped_and_counted() -> None:
    async def run() -> None:
        async with stage() as here:
            # given a call with room for one datagram, and a stranger with a stale entry
            call = here.stock.call(None)
            here.calls.append(call)
            FakeTransport(call, room=1)
            await call.begin()
            call.met("client")
            client, stranger = here.here.client(), here.here.client()
            check(client, call)
            here.here.mux.by_path[stranger.path] = call

            client.send(ALERT)
            client.send(HANDSHAKE)
            client.send(HANDSHAKE)
            stranger.send(HANDSHAKE)

            assert here.here.dropped() == {
                Counter.DROPPED_PLAINTEXT_ALERT: 1,
                Counter.DROPPED_QUEUE_FULL: 1,
                Counter.DROPPED_UNVALIDATED_PATH: 1,
            }

    asyncio.run(run())


def test_a_call_follows_its_authentic_media_to_another_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run() -> None:
        async with stage() as here:
            # given a nominated path, and another one that passed a check
            call, _ = await here.call()
            old, new = here.here.client(), here.here.client()
            check(old, call, nominate=True)
            check(new, call)
            now = begun_at(call)
            monkeypatch.setattr("voicerelay.transceiver.stock.time.monotonic", lambda: now)
            call.authentic(old.path)

            # when media comes from the other one only
            now += SILENCE_S * 2
            call.authentic(new.path)

            new.received()
            call.send_datagram(b"voice")
            assert new.received() == [b"voice"]

    asyncio.run(run())


def test_a_path_that_another_call_proves_is_lost() -> None:
    async def run() -> None:
        async with stage() as here:
            first, _ = await here.call()
            second, _ = await here.call()
            client = here.here.client()

            check(client, first)
            check(client, second)

            assert here.here.mux.by_path == {client.path: second}

    asyncio.run(run())


# ---- credentials and names -----------------------------------------------------------------------


def test_further_transports_share_the_calls_ufrag_also_after_a_restart() -> None:
    async def run() -> None:
        async with stage() as here:
            call, _ = await here.call()
            before = call.ufrag, call.password
            assert here.stock.call(call.ufrag) is call

            await call.restart("client2")

            assert (call.ufrag, call.password) != before
            assert here.stock.call(call.ufrag) is call
            assert here.stock.call("unknown") is not call
            client = here.here.client()
            check(client, call, remote="client2")
            assert client.replies() == 1

    asyncio.run(run())


def test_a_name_finds_the_call_as_long_as_it_lasts() -> None:
    async def run() -> None:
        async with stage() as here:
            routes = here.here.directory.routes
            first, _ = await here.call()
            second, _ = await here.call()

            # given a name that a later call has taken over, as by Pipecat's restart_pc
            await first.claim(owner_key("a"))
            await first.claim(owner_key("b"))
            await second.claim(owner_key("b"))

            first.end("over")
            await first.ended.wait()

            assert owner_key("a") not in routes
            assert routes[owner_key("b")] == second.number
            await first.claim(owner_key("c"))
            assert owner_key("c") not in routes

    asyncio.run(run())


def test_a_call_has_a_bounded_number_of_names() -> None:
    async def run() -> None:
        async with stage() as here:
            call, _ = await here.call()

            for number in range(MAX_KEYS + 5):
                await call.claim(owner_key(str(number)))

            assert len(here.here.directory.routes) == MAX_KEYS + 1  # and the ufrag

    asyncio.run(run())


def test_a_name_that_control_refuses_does_not_hurt_the_call() -> None:
    async def run() -> None:
        async with stage() as here:
            call, _ = await here.call()
            here.here.directory.error = "route table full"

            await call.claim(owner_key("a"))

            assert here.registry.sessions == 1

    asyncio.run(run())
