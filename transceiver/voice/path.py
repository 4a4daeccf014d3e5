"""The voice path of one call: RTP in and out, and the RTCP reports about it. No I/O, no clock."""

import secrets
from dataclasses import dataclass

from voicerelay.transceiver.agent import AudioPacket
from voicerelay.transceiver.voice import rtp

CLOCK_RATE_HZ = 48_000  # RTP clock of Opus, RFC 7587 §4.1
FRAME_TICKS = 960  # 20 ms
FRAME_S = FRAME_TICKS / CLOCK_RATE_HZ
PAUSE_FRAMES = 1.55  # the clock so far ahead of our timestamp means silence; above 1.5: no flutter
REPORT_INTERVAL_S = 2.0
MAX_SEQUENCE_JUMP = 3000  # RFC 3550 A.1 MAX_DROPOUT


@dataclass(slots=True)
class InboundStream:
    """Reception state of one SSRC (RFC 3550 A.1, A.3, A.8)."""

    ssrc: int
    base: int
    highest: int  # extended: 16 bits of sequence, cycles above
    received: int = 0
    jitter: float = 0.0
    last_transit: float | None = None
    expected_before: int = 0
    received_before: int = 0
    sr_ntp: int = 0
    sr_at: float = 0.0

    def add(self, sequence: int, timestamp: int, now: float) -> None:
        delta = (sequence - self.highest) & 0xFFFF
        if delta < 0x8000:
            if delta > MAX_SEQUENCE_JUMP:  # the sender began anew
                self.base, self.received, self.last_transit = sequence, 0, None
                self.highest = sequence
                self.expected_before = self.received_before = 0
            else:
                self.highest += delta
        self.received += 1
        transit = now * CLOCK_RATE_HZ - timestamp
        if self.last_transit is not None:
            difference = abs(transit - self.last_transit)
            if difference < CLOCK_RATE_HZ:  # else a wrap or a jump of the timestamp
                self.jitter += (difference - self.jitter) / 16
        self.last_transit = transit

    @property
    def lost(self) -> int:
        return self.highest - self.base + 1 - self.received

    def report(self, now: float) -> rtp.ReportBlock:
        """The block for the next report; starts a new interval."""
        expected = self.highest - self.base + 1
        expected_now = expected - self.expected_before
        lost_now = expected_now - (self.received - self.received_before)
        self.expected_before, self.received_before = expected, self.received
        fraction = min(255, (lost_now << 8) // expected_now) if lost_now > 0 < expected_now else 0
        delay = int((now - self.sr_at) * 65536) if self.sr_ntp else 0
        return rtp.ReportBlock(
            self.ssrc,
            fraction,
            max(-(1 << 23), min(self.lost, (1 << 23) - 1)),
            self.highest & 0xFFFFFFFF,
            int(self.jitter),
            self.sr_ntp,
            delay & 0xFFFFFFFF,
        )


class VoicePath:
    """The RTP and RTCP of a call: takes in decrypted packets, makes the packets to encrypt."""

    __slots__ = (
        "_cname",
        "_given",
        "_rest",
        "_sent_at",
        "_sequence",
        "_started",
        "_timestamp",
        "heard_at",
        "inbound",
        "octets_in",
        "payload_type",
        "remote_fraction_lost",
        "remote_lost",
        "remote_reports",
        "rtt_s",
        "sent",
        "sent_octets",
        "ssrc",
    )

    def __init__(self, ssrc: int, payload_type: int, cname: str) -> None:
        self.ssrc = ssrc
        self.payload_type = payload_type
        self._cname = cname
        self.inbound: InboundStream | None = None
        self.remote_fraction_lost = 0.0
        self.remote_lost = 0  # packets, by the peer's latest report
        self.remote_reports = 0
        self.heard_at: float | None = None  # the first packet
        self.octets_in = 0  # of payload, as is sent_octets
        self.rtt_s: float | None = None
        self.sent = 0
        self.sent_octets = 0
        self._sent_at = 0.0
        self._sequence = secrets.randbelow(1 << 15)  # away from a wrap before SRTP's first index
        self._timestamp = secrets.randbits(32)
        # What is sent keeps the distances of what is given: (given sequence, timestamp) -> ours.
        self._given: tuple[int, int] | None = None
        self._started = False
        self._rest = 0.0  # frames by which the clock is ahead of our timestamp

    @property
    def lost_in(self) -> int:
        """Packets of the present stream that have not come; late ones make it less again."""
        return max(0, self.inbound.lost) if self.inbound else 0

    def receive(self, data: bytes, now: float) -> rtp.RtpPacket:
        """One decrypted RTP packet. Raises RtpError.

        With a payload type that was not agreed it is empty, but keeps its place in the sequence.
        """
        packet = rtp.parse_rtp(data)
        if packet.payload_type != self.payload_type:
            packet = packet._replace(payload=b"")
        stream = self.inbound
        if stream is None or stream.ssrc != packet.ssrc:
            stream = self.inbound = InboundStream(packet.ssrc, packet.sequence, packet.sequence)
            self._given = None
            if self.heard_at is None:
                self.heard_at = now
        self.octets_in += len(packet.payload)
        stream.add(packet.sequence, packet.timestamp, now)
        return packet

    def packetize(self, audio: AudioPacket, now: float) -> bytes:
        """RTP for an audio packet, on our own SSRC, sequence and timestamp."""
        self._sent_at = now
        if self._given is not None:
            self._sequence += audio.sequence - self._given[0]
            self._timestamp += audio.timestamp - self._given[1]
        elif self._started:
            self._sequence += 1
            self._timestamp += FRAME_TICKS
        self._given = audio.sequence, audio.timestamp
        return self._packet(audio.payload, audio.marker)

    def frame(self, payload: bytes, now: float) -> bytes:
        """RTP for the 20 ms of our own that are due at `now`: the due time, not that of sending.

        The timestamp runs on through silence in whole frames, and what follows it is marked
        (RFC 3550 §5.1, RFC 7587 §4.1).
        """
        marker = not self._started
        if self._started:
            passed = (now - self._sent_at) / FRAME_S + self._rest
            marker = passed >= PAUSE_FRAMES
            frames = round(passed) if marker else 1
            self._rest = passed - frames
            self._sequence += 1
            self._timestamp += frames * FRAME_TICKS
        self._sent_at = now
        self._given = None
        return self._packet(payload, marker)

    def _packet(self, payload: bytes, marker: bool) -> bytes:
        self._started = True
        self._sequence &= 0xFFFF
        self._timestamp &= 0xFFFFFFFF
        self.sent += 1
        self.sent_octets += len(payload)
        return rtp.pack_rtp(
            marker, self.payload_type, self._sequence, self._timestamp, self.ssrc, payload
        )

    def receive_rtcp(self, data: bytes, now: float, wall: float) -> None:
        """Take in the peer's reports. `wall`: Unix time. Raises RtpError."""
        for item in rtp.parse_rtcp(data):
            if not isinstance(item, rtp.RtcpReport):
                continue
            if item.ntp is not None and self.inbound and item.ssrc == self.inbound.ssrc:
                self.inbound.sr_ntp, self.inbound.sr_at = item.ntp, now
            for block in item.blocks:
                if block.ssrc == self.ssrc:
                    self._take_report(block, wall)

    def report(self, now: float, wall: float) -> bytes | None:
        """The next compound RTCP packet, or None while nothing has happened."""
        blocks = [self.inbound.report(now)] if self.inbound else []
        sender = None
        if self.sent:
            # The timestamp belongs to the same instant as the NTP time (RFC 3550 §6.4.1).
            since = int((now - self._sent_at) * CLOCK_RATE_HZ)
            timestamp = (self._timestamp + since) & 0xFFFFFFFF
            sender = rtp.SenderInfo(_ntp(wall), timestamp, self.sent, self.sent_octets)
        if not blocks and sender is None:
            return None
        return rtp.build_report(self.ssrc, self._cname, sender, blocks)

    def _take_report(self, block: rtp.ReportBlock, wall: float) -> None:
        self.remote_fraction_lost = block.fraction_lost / 256
        self.remote_lost = block.lost
        self.remote_reports += 1
        if block.last_sr:
            round_trip = ((_ntp(wall) >> 16) - block.last_sr - block.delay) & 0xFFFFFFFF
            if round_trip < 0x80000000:  # else the clocks' rounding made it negative
                self.rtt_s = round_trip / 65536


def _ntp(wall: float) -> int:
    return int((wall + rtp.NTP_EPOCH_OFFSET_S) * (1 << 32)) & 0xFFFFFFFFFFFFFFFF
