"""Datagrams through the seam: DTLS when a path is valid, flights that fit every path, bounded waiting."""

import asyncio
import gc

import aioice
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.transceiver.test_offer import CHROMIUM
from tests.unit.transceiver.test_seam import FakeLink
from voicerelay.transceiver import seam
from voicerelay.transceiver.lite import MAX_PENDING_DATAGRAMS, LiteConnection
from voicerelay.transceiver.offer import check_offer
from voicerelay.transceiver.seam import (
    MAX_DATAGRAM_SENT_BYTES,
    Peer,
    answer,
    cut_at_records,
)


async def peer_with_flight(link: FakeLink) -> Peer:
    seam.install()
    peer = await answer(check_offer(CHROMIUM).sdp, link)
    peer.ready()
    async with asyncio.timeout(10):
        await link.flight.wait()
    return peer


def test_dtls_begins_when_a_path_is_valid_and_sends_what_every_path_can_carry() -> None:
    async def run() -> None:
        seam.install()
        link = FakeLink()
        waiting = await answer(check_offer(CHROMIUM).sdp, link)
        assert not link.sent
        await waiting.close()

        peer = await peer_with_flight(link)

        assert all(0 < len(data) <= MAX_DATAGRAM_SENT_BYTES for data in link.sent)
        assert link.sent[0][0] == 22  # a handshake record: our ClientHello
        assert peer.dtls_state == "connecting"
        await peer.close()

    asyncio.run(run())


def test_a_call_that_ends_during_its_handshake_leaves_no_task_that_failed() -> None:
    """asyncio would log a traceback for each of them, as often as a client likes."""
    failed: list[str] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: failed.append(context["message"]))
        peer = await peer_with_flight(FakeLink())

        await peer.close()

        del peer

        for _ in range(10):
            await asyncio.sleep(0)
        gc.collect()

    asyncio.run(run())

    assert failed == []


def test_before_the_keys_are_there_nothing_is_encrypted_or_decrypted() -> None:
    async def run() -> None:
        peer = await peer_with_flight(FakeLink())

        for rtcp in (False, True):
            assert peer.unprotect(bytes(40), rtcp) is None
            assert peer.protect(bytes(40), rtcp) is None
        await peer.close()

    asyncio.run(run())


def test_dtls_datagrams_that_wait_are_bounded() -> None:
    async def run() -> None:
        connection = LiteConnection(FakeLink())

        taken = [connection.deliver(bytes((n,))) for n in range(MAX_PENDING_DATAGRAMS + 2)]

        assert taken == [True] * MAX_PENDING_DATAGRAMS + [False] * 2
        assert await connection.recv() == b"\x00"
        assert connection.deliver(b"again")

    asyncio.run(run())


def test_whoever_waits_for_a_connection_that_ends_is_woken() -> None:
    async def run() -> None:
        connection = LiteConnection(FakeLink())
        waiting = [
            asyncio.ensure_future(wait())
            for wait in (connection.connect, connection.recv, connection.get_event)
        ]
        await asyncio.sleep(0)

        await connection.close()

        async with asyncio.timeout(10):
            results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [
            ConnectionError,
            ConnectionError,
            aioice.ConnectionClosed,
        ]
        with pytest.raises(ConnectionError):
            await connection.send(b"late")

    asyncio.run(run())


RECORDS = st.lists(st.one_of(st.integers(0, 300), st.integers(0, 3000)), max_size=20)


@settings(deadline=None)
@given(RECORDS)
def test_a_flight_is_cut_at_records_into_datagrams_that_fit(sizes: list[int]) -> None:
    # given a flight of DTLS records
    records = [b"\x16" + bytes(10) + size.to_bytes(2, "big") + bytes(size) for size in sizes]
    flight = b"".join(records)
    ends = {sum(map(len, records[: n + 1])) for n in range(len(records))}

    datagrams = cut_at_records(flight)

    # then nothing is lost, every cut is a record's end, and only one long record is too long
    assert b"".join(datagrams) == flight
    at = 0
    for datagram in datagrams:
        inside = [end for end in ends if at < end < at + len(datagram)]
        assert 0 < len(datagram) <= MAX_DATAGRAM_SENT_BYTES or not inside
        at += len(datagram)
        assert at in ends


@settings(deadline=None)
@given(st.binary(max_size=4000))
def test_any_bytes_are_cut_without_loss(flight: bytes) -> None:
    assert b"".join(cut_at_records(flight)) == flight
