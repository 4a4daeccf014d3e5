"""RTP and RTCP on the wire (RFC 3550): what is written reads back, and nothing else than RtpError comes out."""

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicerelay.transceiver.voice.rtp import (
    MAX_REPORT_BLOCKS,
    ReportBlock,
    RtcpBye,
    RtcpReport,
    RtpError,
    RtpPacket,
    SenderInfo,
    build_report,
    build_rtp,
    is_rtcp,
    parse_rtcp,
    parse_rtp,
)

U8, U16, U32 = st.integers(0, 0xFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
PACKETS = st.builds(
    RtpPacket, st.booleans(), st.integers(0, 127), U16, U32, U32, st.binary(max_size=64)
)
SIGNED_24 = st.integers(-(1 << 23), (1 << 23) - 1)
BLOCKS = st.builds(ReportBlock, U32, U8, SIGNED_24, U32, U32, U32, U32)
PACKET = RtpPacket(True, 111, 65_535, 0xFFFFFFFF, 0x01020304, b"opus")


def header(first: int = 0x80, second: int = 111) -> bytes:
    return struct.pack("!BBHII", first, second, 7, 960, 0x01020304)


# ---- RTP -----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(PACKETS)
def test_a_packet_reads_back_as_it_was_built(packet: RtpPacket) -> None:
    assert parse_rtp(build_rtp(packet)) == packet


def test_a_packet_looks_like_the_rfc_draws_it() -> None:
    assert build_rtp(PACKET) == b"\x80\xef\xff\xff\xff\xff\xff\xff\x01\x02\x03\x04opus"


@settings(deadline=None)
@given(PACKETS, st.integers(0, 15), st.binary(max_size=32), st.integers(0, 20))
def test_csrcs_extension_and_padding_are_taken_off(
    packet: RtpPacket, csrcs: int, extension: bytes, padding: int
) -> None:
    # given a packet with everything a header may have (RFC 3550 §5.1, §5.3.1)
    plain = build_rtp(packet)
    extension += bytes(-len(extension) % 4)
    data = bytes((plain[0] | csrcs | 0x10 | (0x20 if padding else 0),)) + plain[1:12]
    data += bytes(4 * csrcs) + b"\xbe\xde" + (len(extension) // 4).to_bytes(2, "big") + extension
    data += packet.payload + (bytes(padding - 1) + bytes((padding,)) if padding else b"")

    assert parse_rtp(data) == packet


@pytest.mark.parametrize(
    "data",
    [
        b"",
        header()[:11],
        header(first=0x40) + b"opus",  # version 1
        header(first=0x8F) + bytes(59),  # 15 CSRCs need 60 bytes
        header(first=0x90) + bytes(3),  # no room for the extension's head
        header(first=0x90) + b"\xbe\xde\x00\x02" + bytes(7),  # nor for its two words
        header(first=0xA0) + b"opus\x00",  # padding of no bytes
        header(first=0xA0) + b"opus\x06",  # more than there is
    ],
)
def test_a_packet_that_breaks_the_rfc_is_refused(data: bytes) -> None:
    with pytest.raises(RtpError):
        parse_rtp(data)


def test_a_packet_may_be_all_padding() -> None:
    assert parse_rtp(header(first=0xA0) + bytes((0, 0, 0, 4))).payload == b""


@settings(deadline=None, max_examples=400)
@given(st.binary(max_size=80), st.one_of(U8, st.integers(128, 191)))
def test_any_bytes_are_an_rtp_packet_or_refused(data: bytes, first: int) -> None:
    with contextlib.suppress(RtpError):
        packet = parse_rtp(bytes((first,)) + data)
        assert len(packet.payload) <= len(data) - 11


@pytest.mark.parametrize(
    ("second", "rtcp"), [(111, False), (191, False), (192, True), (200, True), (223, True)]
)
def test_rtcp_is_told_by_its_second_byte(second: int, rtcp: bool) -> None:
    """RFC 5761 §4."""
    assert is_rtcp(bytes((0x80, second))) is rtcp


def test_one_byte_is_no_rtcp() -> None:
    assert not is_rtcp(b"\x80")


# ---- RTCP ----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(U32, st.integers(0, (1 << 64) - 1), st.lists(BLOCKS, max_size=4), st.booleans())
def test_a_report_reads_back_as_it_was_built(
    ssrc: int, ntp: int, blocks: list[ReportBlock], sending: bool
) -> None:
    sender = SenderInfo(ntp, 960, 1, 80) if sending else None

    found = parse_rtcp(build_report(ssrc, "caller", sender, blocks))

    middle = ntp >> 16 & 0xFFFFFFFF if sending else None
    assert found == [RtcpReport(ssrc, middle, tuple(blocks))]


def test_a_sender_report_looks_like_the_rfc_draws_it() -> None:
    block = ReportBlock(5, 64, -1, 6, 7, 8, 9)

    data = build_report(1, "ab", SenderInfo(0x1122334455667788, 2, 3, 4), [block])

    report = "81c8000c 00000001 11223344 55667788 00000002 00000003 00000004"
    block_hex = "00000005 40ffffff 00000006 00000007 00000008 00000009"
    cname = "81ca0003 00000001 01026162 00000000"
    assert data == bytes.fromhex(report + block_hex + cname)


@pytest.mark.parametrize("name", ["", "a", "ab", "abc", "abcd", "x" * 300, "ü" * 200])
def test_a_cname_of_any_length_ends_on_a_word_with_at_least_one_zero(name: str) -> None:
    data = build_report(1, name, None, [])

    items = data[8:]
    assert len(data) % 4 == 0
    assert items[9] == min(255, len(name.encode()))
    assert items[10 + items[9] :].strip(b"\0") == b""
    assert len(items) > 10 + items[9]
    assert parse_rtcp(data) == [RtcpReport(1, None, ())]


def test_a_report_has_at_most_31_blocks() -> None:
    blocks = [ReportBlock(n, 0, 0, 0, 0, 0, 0) for n in range(MAX_REPORT_BLOCKS + 5)]

    (report,) = parse_rtcp(build_report(1, "c", None, blocks))

    assert report == RtcpReport(1, None, tuple(blocks[:MAX_REPORT_BLOCKS]))


@pytest.mark.parametrize(
    ("wire", "lost"), [("7fffff", 8_388_607), ("800000", -8_388_608), ("ffffff", -1), ("0", 0)]
)
def test_the_loss_of_a_report_block_is_signed(wire: str, lost: int) -> None:
    loss = bytes.fromhex(wire.rjust(6, "0"))
    data = bytes.fromhex("81c90007 00000001 00000002 80") + loss + bytes(16)

    assert parse_rtcp(data) == [RtcpReport(1, None, (ReportBlock(2, 128, lost, 0, 0, 0, 0),))]


def test_a_compound_packet_is_read_to_its_end() -> None:
    goodbye = bytes.fromhex("82cb0002 00000001 00000002")
    feedback = bytes.fromhex("81ce0002 00000001 00000002")  # PLI: of no use to a voice call

    found = parse_rtcp(build_report(1, "c", None, []) + feedback + goodbye)

    assert found == [RtcpReport(1, None, ()), RtcpBye((1, 2))]


@pytest.mark.parametrize(
    "wire",
    [
        "80",
        "80c900",
        "40c90001 00000001",  # version 1
        "80c90002 00000001",  # longer than the datagram
        "81c90001 00000001",  # a block that is not there
        "80c80001 00000001",  # a sender report without sender info
        "82cb0001 00000001",  # a second source that is not there
        "80c90000",  # a report without a sender
    ],
)
def test_rtcp_that_breaks_the_rfc_is_refused(wire: str) -> None:
    with pytest.raises(RtpError):
        parse_rtcp(bytes.fromhex(wire))


@settings(deadline=None, max_examples=400)
@given(st.binary(max_size=80), st.integers(128, 191), st.integers(198, 208), st.integers(0, 8))
def test_any_bytes_are_rtcp_or_refused(data: bytes, first: int, kind: int, words: int) -> None:
    for junk in (data, bytes((first, kind, 0, words)) + data):
        with contextlib.suppress(RtpError):
            parse_rtcp(junk)
