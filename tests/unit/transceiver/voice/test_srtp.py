"""SRTP transforms: the same bytes as pylibsrtp's Session makes, and None where it raises."""

import pylibsrtp
import pytest
from pylibsrtp import Policy

from voicerelay.transceiver.voice.rtp import RtpPacket, build_report, build_rtp
from voicerelay.transceiver.voice.srtp import MAX_PACKET_BYTES, MAX_TRAILER_BYTES, Keyed

KEY = bytes(range(30))
PROFILES = (
    Policy.SRTP_PROFILE_AES128_CM_SHA1_80,
    Policy.SRTP_PROFILE_AES128_CM_SHA1_32,
)


def session(direction: int, profile: int = PROFILES[0]) -> pylibsrtp.Session:
    return pylibsrtp.Session(Policy(KEY, direction, srtp_profile=profile))


def packet(number: int, size: int = 80) -> bytes:
    return build_rtp(RtpPacket(False, 111, number, number * 960, 7, bytes(size)))


@pytest.fixture
def sender() -> Keyed:
    return Keyed(session(Policy.SSRC_ANY_OUTBOUND))


@pytest.fixture
def receiver() -> Keyed:
    return Keyed(session(Policy.SSRC_ANY_INBOUND))


@pytest.mark.parametrize("profile", PROFILES)
def test_packets_are_what_pylibsrtp_makes_of_them(profile: int) -> None:
    stock, ours = (session(Policy.SSRC_ANY_OUTBOUND, profile) for _ in range(2))
    keyed = Keyed(ours)

    for number in range(3):
        assert keyed.protect(packet(number)) == stock.protect(packet(number))
    report = build_report(7, "name", None, [])
    assert keyed.protect_rtcp(report) == stock.protect_rtcp(report)


def test_what_was_protected_comes_out_again(sender: Keyed, receiver: Keyed) -> None:
    report = build_report(7, "name", None, [])

    secret, secret_report = sender.protect(packet(1)), sender.protect_rtcp(report)

    assert secret is not None
    assert secret_report is not None
    assert receiver.unprotect(secret) == packet(1)
    assert receiver.unprotect_rtcp(secret_report) == report


def test_calls_do_not_mix_though_they_share_a_buffer() -> None:
    calls = [
        (Keyed(session(Policy.SSRC_ANY_OUTBOUND)), Keyed(session(Policy.SSRC_ANY_INBOUND)))
        for _ in range(3)
    ]

    secrets = [sender.protect(packet(n, 40 + n)) for n, (sender, _) in enumerate(calls)]

    for number, ((_, receiver), secret) in enumerate(zip(calls, secrets, strict=True)):
        assert secret is not None
        assert receiver.unprotect(secret) == packet(number, 40 + number)


def test_replays_and_forgeries_are_refused(sender: Keyed, receiver: Keyed) -> None:
    secret = sender.protect(packet(1))
    assert secret is not None
    forged = secret[:-1] + bytes([secret[-1] ^ 1])

    assert receiver.unprotect(forged) is None
    assert receiver.unprotect(secret) == packet(1)
    assert receiver.unprotect(secret) is None


@pytest.mark.parametrize("size", [0, 1, 11, MAX_PACKET_BYTES, MAX_PACKET_BYTES + 1, 60_000])
def test_any_length_is_taken_or_refused(sender: Keyed, receiver: Keyed, size: int) -> None:
    assert receiver.unprotect(bytes(size)) is None
    assert receiver.unprotect_rtcp(bytes(size)) is None
    protected = sender.protect(packet(1, max(0, size - 12))[:size])
    assert protected is None or len(protected) <= MAX_PACKET_BYTES + MAX_TRAILER_BYTES


def test_the_largest_packet_has_room_for_its_trailer(sender: Keyed, receiver: Keyed) -> None:
    plain = packet(1, MAX_PACKET_BYTES - 12)

    secret = sender.protect(plain)

    assert secret is not None
    assert receiver.unprotect(secret) is None  # above what a packet may have on its way in
    assert sender.protect(plain + b"x") is None
