"""DTLS of a call between two of ours, in memory: roles, losses, forgeries, goodbyes."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiortc.rtcdtlstransport import (
    SRTP_PROFILES,
    RTCDtlsFingerprint,
    RTCDtlsParameters,
    SRTPProtectionProfile,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL

from voicerelay.transceiver import dtls as module
from voicerelay.transceiver.dtls import (
    CERTIFICATE_LIFETIME_S,
    MAX_DATAGRAM_SENT_BYTES,
    Certificate,
    Dtls,
    cut_at_records,
)

CLOSE_NOTIFY = 21
HANDSHAKE = 22


class Pair:
    """A client and a server; what they send waits in `under_way` until `carry`."""

    def __init__(self, fingerprint: str | None = None) -> None:
        ours = Certificate.shared().getFingerprints()
        expected = [RTCDtlsFingerprint("sha-256", fingerprint)] if fingerprint else ours
        self.under_way: list[tuple[Dtls, bytes]] = []
        self.spoken = asyncio.Event()
        self.states: list[tuple[str, str]] = []
        self.client = self._make("client", RTCDtlsParameters(expected))
        self.server = self._make("server", RTCDtlsParameters(ours))
        self.both = (self.client, self.server)

    def _make(self, role: str, remote: RTCDtlsParameters) -> Dtls:
        def send(data: bytes) -> None:
            self.under_way.append((self.server if role == "client" else self.client, data))
            self.spoken.set()

        made = Dtls(role, remote, send)
        made.on("statechange", lambda: self.states.append((role, made.state)))
        return made

    def begin(self) -> None:
        for one in (self.server, self.client):
            one.begin()

    def carry(self) -> None:
        """Until nobody has anything more to say."""
        while self.under_way:
            to, data = self.under_way.pop(0)
            to.take(data)

    def lose(self) -> None:
        """All that is under way."""
        self.under_way.clear()
        self.spoken.clear()

    async def stop(self) -> None:
        for one in self.both:
            await one.stop()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def guarded() -> None:
        async with asyncio.timeout(10):
            await test()

    asyncio.run(guarded())


def test_a_handshake_needs_no_turn_of_the_loop_and_gives_matching_keys() -> None:
    async def test() -> None:
        pair = Pair()

        pair.begin()
        pair.carry()

        assert [one.state for one in pair.both] == ["connected"] * 2
        assert pair.states.count(("client", "connected")) == 1
        packet = b"\x80\x6f" + bytes(10) + b"voice"
        for one, other in (pair.both, pair.both[::-1]):
            assert other._rx_srtp.unprotect(one._tx_srtp.protect(packet)) == packet
        await pair.stop()

    run(test)


def test_only_the_client_speaks_first_and_only_once() -> None:
    async def test() -> None:
        pair = Pair()

        pair.server.begin()
        assert pair.under_way == []
        pair.client.begin()
        pair.client.begin()

        assert [data[0] for _, data in pair.under_way] == [HANDSHAKE]
        await pair.stop()

    run(test)


def test_what_comes_before_the_beginning_or_after_the_end_changes_nothing() -> None:
    async def test() -> None:
        pair = Pair()
        pair.client.begin()
        hello = pair.under_way[0][1]

        pair.server.take(hello)
        assert (pair.server.state, len(pair.under_way)) == ("new", 1)
        await pair.stop()
        pair.server.begin()
        pair.client.take(hello)

        assert [one.state for one in pair.both] == ["closed"] * 2
        assert pair.server._ssl is None

    run(test)


def test_a_lost_flight_is_sent_again_by_the_timer() -> None:
    async def test() -> None:
        pair = Pair()
        pair.begin()
        assert pair.client._timer is not None

        pair.lose()
        await pair.spoken.wait()
        pair.carry()

        assert [one.state for one in pair.both] == ["connected"] * 2
        assert [one._timer for one in pair.both] == [None, None]
        await pair.stop()

    run(test)


def test_a_flight_goes_out_again_as_it_was_before_openssl_makes_a_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "RESEND_AFTER_S", (0.01, 0.02))

    async def test() -> None:
        pair = Pair()
        pair.begin()
        first = [data for _, data in pair.under_way]

        # given that it is lost, and what follows it too
        for _ in module.RESEND_AFTER_S:
            pair.lose()
            await pair.spoken.wait()
            assert [data for _, data in pair.under_way] == first

        # then the handshake goes on with what came at last, and each flight is one's own
        pair.carry()
        assert [one.state for one in pair.both] == ["connected"] * 2
        await pair.stop()

    run(test)


def test_a_lost_last_flight_is_repeated_when_the_peer_asks_again() -> None:
    async def test() -> None:
        # given a server that is done, and a client that its last flight has not reached
        pair = Pair()
        pair.begin()
        while pair.server.state != "connected":
            to, data = pair.under_way.pop(0)
            to.take(data)
        pair.lose()

        # when the client repeats its own: not as it was, which is a replay, but made anew
        while pair.client.state != "connected":
            await pair.spoken.wait()
            pair.spoken.clear()
            pair.carry()

        assert [one.state for one in pair.both] == ["connected"] * 2
        await pair.stop()

    run(test)


def test_a_certificate_that_the_offer_did_not_name_fails() -> None:
    async def test() -> None:
        pair = Pair(fingerprint=":".join(["00"] * 32))

        pair.begin()
        pair.carry()

        assert pair.client.state == "failed"
        assert ("client", "connected") not in pair.states
        assert not pair.client._tx_srtp
        await pair.stop()

    run(test)


def test_a_peer_without_a_common_srtp_profile_fails() -> None:
    async def test() -> None:
        pair = Pair()
        none: list[SRTPProtectionProfile] = []
        pair.client._srtp_profiles = none

        pair.begin()
        pair.carry()

        assert pair.client.state == "failed"
        await pair.stop()

    run(test)


@pytest.mark.parametrize("ends", ["client", "server"])
def test_a_goodbye_is_heard(ends: str) -> None:
    async def test() -> None:
        pair = Pair()
        pair.begin()
        pair.carry()
        one, other = pair.both if ends == "client" else pair.both[::-1]

        await one.stop()
        assert [data[0] for _, data in pair.under_way] == [CLOSE_NOTIFY]
        pair.carry()

        assert other.state == "closed"
        await pair.stop()

    run(test)


class Receiver:
    """In SCTP's place."""

    def __init__(self, error: Exception | None = None) -> None:
        self.heard: list[bytes] = []
        self.error = error

    async def _handle_data(self, data: bytes) -> None:
        self.heard.append(data)
        if self.error is not None:
            raise self.error


def test_data_arrives_in_order_and_forged_records_are_dropped() -> None:
    async def test() -> None:
        pair = Pair()
        pair.begin()
        pair.carry()
        pair.server._register_data_receiver(receiver := Receiver())
        numbers = [bytes((n,)) * 100 for n in range(20)]

        for number in numbers:
            await pair.client._send_data(number)
        forged = bytes((*pair.under_way[0][1][:-1], 0))
        pair.under_way.insert(5, (pair.server, forged))
        pair.carry()
        await asyncio.sleep(0)

        assert receiver.heard == numbers
        assert pair.server.state == "connected"
        await pair.stop()

    run(test)


def test_data_for_a_peer_that_has_gone_is_not_sent_and_no_error() -> None:
    async def test() -> None:
        pair = Pair()
        pair.begin()
        pair.carry()
        await pair.client.stop()
        pair.carry()
        assert pair.server.state == "closed"

        await pair.server._send_data(b"an acknowledgement")

        assert not pair.under_way
        await pair.stop()

    run(test)


def test_an_sctp_that_breaks_ends_the_call(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        pair = Pair()
        pair.begin()
        pair.carry()
        pair.server._register_data_receiver(Receiver(ValueError("a chunk of nonsense")))

        await pair.client._send_data(b"x")
        pair.carry()
        await asyncio.sleep(0)

        assert pair.server.state == "closed"
        assert ("server", "closed") in pair.states
        await pair.stop()

    run(test)

    assert "a chunk of nonsense" in caplog.text


def test_a_call_that_ends_during_its_handshake_leaves_no_timer() -> None:
    async def test() -> None:
        pair = Pair()
        pair.begin()

        await pair.stop()

        assert [one._timer for one in pair.both] == [None, None]

    run(test)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.binary(min_size=1, max_size=200), max_size=20))
def test_no_bytes_whatever_raise_in_a_handshake(datagrams: list[bytes]) -> None:
    async def test() -> None:
        pair = Pair()
        pair.begin()

        for data in datagrams:
            pair.server.take(bytes((HANDSHAKE,)) + data)
            pair.client.take(data)

        await pair.stop()

    run(test)


def test_all_calls_share_one_certificate_until_it_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    def fingerprint() -> str:
        (only,) = Certificate.shared().getFingerprints()
        assert only.algorithm == "sha-256"
        return only.value

    first, second = fingerprint(), fingerprint()
    monkeypatch.setattr(Certificate, "_made_at", Certificate._made_at - CERTIFICATE_LIFETIME_S - 1)
    third, fourth = fingerprint(), fingerprint()

    assert (first, third) == (second, fourth)
    assert first != third


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


def test_the_shared_context_keeps_no_sessions_of_calls() -> None:
    """Nobody resumes; as DTLS server it would keep the last 20,000 of them."""
    context = Certificate.shared()._create_ssl_context(SRTP_PROFILES)

    assert context.get_session_cache_mode() == SSL.SESS_CACHE_OFF
