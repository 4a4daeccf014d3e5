"""RTP and RTCP on the wire (RFC 3550): total parsers, small builders, no state."""

import struct
from collections.abc import Callable
from typing import NamedTuple

RTP_HEADER_BYTES = 12
FIRST_RTP_BYTE = 128  # RFC 7983 §7: DTLS stays below
RTCP_SR, RTCP_RR, RTCP_SDES, RTCP_BYE = 200, 201, 202, 203
MAX_REPORT_BLOCKS = 31  # RFC 3550 §6.4.1
NTP_EPOCH_OFFSET_S = 2_208_988_800
_RTP = struct.Struct("!BBHII")
_RTCP = struct.Struct("!BBH")
_SENDER = struct.Struct("!IIIIII")
_REPORT = struct.Struct("!IIIIII")


class RtpError(ValueError):
    """The peer's packet breaks RFC 3550; it is dropped and counted."""


class RtpPacket(NamedTuple):
    """One RTP packet without padding, CSRCs and header extensions."""

    marker: bool
    payload_type: int
    sequence: int
    timestamp: int
    ssrc: int
    payload: bytes


_new_packet: Callable[[type[RtpPacket], tuple[bool, int, int, int, int, bytes]], RtpPacket] = (
    tuple.__new__
)


class ReportBlock(NamedTuple):
    """Reception report (RFC 3550 §6.4.1). `lost` is signed; jitter in clock units."""

    ssrc: int
    fraction_lost: int
    lost: int
    highest: int
    jitter: int
    last_sr: int
    delay: int


class RtcpReport(NamedTuple):
    """A sender or receiver report. `ntp` is the middle 32 bits of an SR's time, else None."""

    ssrc: int
    ntp: int | None
    blocks: tuple[ReportBlock, ...]


class RtcpBye(NamedTuple):
    """The sources that leave."""

    sources: tuple[int, ...]


def is_rtcp(data: bytes) -> bool:
    """Whether an RTP-or-RTCP packet is RTCP (RFC 5761 §4)."""
    return len(data) > 1 and 192 <= data[1] <= 223


def parse_rtp(data: bytes) -> RtpPacket:
    """Read one packet. Raises RtpError, and nothing else."""
    if len(data) < RTP_HEADER_BYTES:
        raise RtpError("length")
    first, second, sequence, timestamp, ssrc = _RTP.unpack_from(data)
    start, end = RTP_HEADER_BYTES, len(data)
    if first != 0x80:
        start, end = _payload_span(data, first)
    fields = second >= 0x80, second & 0x7F, sequence, timestamp, ssrc, data[start:end]
    return _new_packet(RtpPacket, fields)  # RtpPacket(...) takes twice as long


def _payload_span(data: bytes, first: int) -> tuple[int, int]:
    """Where the payload begins and ends, with CSRCs, header extension and padding left out."""
    if first >> 6 != 2:
        raise RtpError("version")
    start = RTP_HEADER_BYTES + 4 * (first & 0x0F)
    if first & 0x10:
        if len(data) < start + 4:
            raise RtpError("header extension")
        start += 4 + 4 * int.from_bytes(data[start + 2 : start + 4], "big")
    end = len(data)
    if first & 0x20:
        padding = data[-1]
        if not padding:
            raise RtpError("padding")
        end -= padding
    if start > end:
        raise RtpError("length")
    return start, end


def build_rtp(packet: RtpPacket) -> bytes:
    """Bytes of a packet without extensions."""
    return pack_rtp(*packet)


def pack_rtp(
    marker: bool, payload_type: int, sequence: int, timestamp: int, ssrc: int, payload: bytes
) -> bytes:
    """The same from its fields, for the path of a frame."""
    second = payload_type | (0x80 if marker else 0)
    return _RTP.pack(0x80, second, sequence, timestamp, ssrc) + payload


def parse_rtcp(data: bytes) -> list[RtcpReport | RtcpBye]:
    """Read a compound packet; types that a voice call does not need are passed over.

    Raises RtpError, and nothing else.
    """
    found: list[RtcpReport | RtcpBye] = []
    position = 0
    while position < len(data):
        if position + 4 > len(data):
            raise RtpError("rtcp header")
        first, kind, words = _RTCP.unpack_from(data, position)
        end = position + 4 + 4 * words
        if first >> 6 != 2 or end > len(data):
            raise RtpError("rtcp length")
        body = data[position + 4 : end]
        count = first & 0x1F
        if kind in (RTCP_SR, RTCP_RR):
            found.append(_parse_report(kind, count, body))
        elif kind == RTCP_BYE:
            if len(body) < 4 * count:
                raise RtpError("bye")
            found.append(RtcpBye(struct.unpack_from(f"!{count}I", body)))
        position = end
    return found


def _parse_report(kind: int, count: int, body: bytes) -> RtcpReport:
    start = 24 if kind == RTCP_SR else 4
    if len(body) < start + _REPORT.size * count:
        raise RtpError("report")
    ssrc = int.from_bytes(body[:4], "big")
    ntp = None
    if kind == RTCP_SR:
        ntp = int.from_bytes(body[6:10], "big")
    blocks = []
    for index in range(count):
        source, loss, highest, jitter, last_sr, delay = _REPORT.unpack_from(
            body, start + index * _REPORT.size
        )
        lost = loss & 0xFFFFFF
        if lost & 0x800000:
            lost -= 1 << 24
        blocks.append(ReportBlock(source, loss >> 24, lost, highest, jitter, last_sr, delay))
    return RtcpReport(ssrc, ntp, tuple(blocks))


class SenderInfo(NamedTuple):
    """What a sender report says of our own stream; `ntp` in 1/2^32 s since 1900."""

    ntp: int
    timestamp: int
    packets: int
    octets: int


def build_report(
    ssrc: int, cname: str, sender: SenderInfo | None, blocks: list[ReportBlock]
) -> bytes:
    """A compound SR or RR with its SDES CNAME (RFC 3550 §6.1)."""
    body = ssrc.to_bytes(4, "big")
    if sender is not None:
        body = _SENDER.pack(
            ssrc,
            sender.ntp >> 32 & 0xFFFFFFFF,
            sender.ntp & 0xFFFFFFFF,
            sender.timestamp,
            sender.packets & 0xFFFFFFFF,
            sender.octets & 0xFFFFFFFF,
        )
    for block in blocks[:MAX_REPORT_BLOCKS]:
        loss = (block.fraction_lost & 0xFF) << 24 | (block.lost & 0xFFFFFF)
        body += _REPORT.pack(
            block.ssrc, loss, block.highest, block.jitter, block.last_sr, block.delay
        )
    kind = RTCP_RR if sender is None else RTCP_SR
    report = _RTCP.pack(0x80 | len(blocks[:MAX_REPORT_BLOCKS]), kind, len(body) // 4) + body
    name = cname.encode()[:255]
    item = ssrc.to_bytes(4, "big") + bytes((1, len(name))) + name
    item += bytes(4 - len(item) % 4)  # at least one zero ends the list of items
    return report + _RTCP.pack(0x81, RTCP_SDES, len(item) // 4) + item
