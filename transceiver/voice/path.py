"""The voice path of one call: RTP in and out, and the RTCP reports about it. No I/O, no clock."""

import secrets

from voicerelay.transceiver.agent import AudioPacket
from voicerelay.transceiver.voice import rtp
from voicerelay.transceiver.voice.line import new_line, new_stream

CLOCK_RATE_HZ = 48_000  # RTP clock of Opus, RFC 7587 §4.1
FRAME_TICKS = 960  # 20 ms
FRAME_S = FRAME_TICKS / CLOCK_RATE_HZ
PAUSE_FRAMES = 1.55  # the clock so far ahead of our timestamp means silence; above 1.5: no flutter
REPORT_INTERVAL_S = 2.0
MAX_SEQUENCE_JUMP = 3000  # RFC 3550 A.1 MAX_DROPOUT


class InboundStream:
    """Reception state of one SSRC (RFC 3550 A.1, A.3, A.8). `base`, `highest`: extended, cycles above 16 bits."""

    __slots__ = ("_expected_before", "_received_before", "sr_at", "sr_ntp", "state")

    def __init__(self, ssrc: int, base: int, highest: int) -> None:
        self.state = state = new_stream()
        state.ssrc, state.base, state.highest = ssrc, base, highest
        self.sr_ntp = 0
        self.sr_at = 0.0
        self._expected_before = self._received_before = 0

    def add(self, sequence: int, timestamp: int, now: float) -> None:
        """One packet. As voice.c's count_in, where it is not the one that is next."""
        state = self.state
        delta = (sequence - state.highest) & 0xFFFF
        if delta < 0x8000:
            if delta > MAX_SEQUENCE_JUMP:  # the sender began anew
                state.base, state.received, state.timed = sequence, 0, False
                state.highest = sequence
                self._expected_before = self._received_before = 0
            else:
                state.highest += delta
        state.received += 1
        transit = now * CLOCK_RATE_HZ - timestamp
        if state.timed:
            difference = abs(transit - state.last_transit)
            if difference < CLOCK_RATE_HZ:  # else a wrap or a jump of the timestamp
                state.jitter += (difference - state.jitter) / 16
        state.last_transit, state.timed = transit, True

    @property
    def ssrc(self) -> int:
        return int(self.state.ssrc)

    @property
    def base(self) -> int:
        return int(self.state.base)

    @property
    def highest(self) -> int:
        return int(self.state.highest)

    @property
    def jitter(self) -> float:
        """Of the RTP clock."""
        return float(self.state.jitter)

    @property
    def lost(self) -> int:
        return int(self.state.highest - self.state.base + 1 - self.state.received)

    def report(self, now: float) -> rtp.ReportBlock:
        """The block for the next report; starts a new interval."""
        highest, received = self.highest, int(self.state.received)
        expected = highest - self.base + 1
        expected_now = expected - self._expected_before
        lost_now = expected_now - (received - self._received_before)
        self._expected_before, self._received_before = expected, received
        fraction = min(255, (lost_now << 8) // expected_now) if lost_now > 0 < expected_now else 0
        delay = int((now - self.sr_at) * 65536) if self.sr_ntp else 0
        return rtp.ReportBlock(
            self.ssrc,
            fraction,
            max(-(1 << 23), min(self.lost, (1 << 23) - 1)),
            highest & 0xFFFFFFFF,
            int(self.jitter),
            self.sr_ntp,
            delay & 0xFFFFFFFF,
        )


class VoicePath:
    """The RTP and RTCP of a call: takes in decrypted packets, makes the packets to encrypt.

    What both sides of it are counted with is in `line`, for voice.c does the same.
    """

    __slots__ = (
        "_cname",
        "heard_at",
        "inbound",
        "line",
        "payload_type",
        "remote_fraction_lost",
        "remote_lost",
        "remote_reports",
        "rtt_s",
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
        self.rtt_s: float | None = None
        self.line = made = new_line()
        made.ssrc, made.payload_type = ssrc, payload_type
        made.sequence = secrets.randbelow(1 << 15)  # away from a wrap before SRTP's first index
        made.timestamp = secrets.randbits(32)

    @property
    def octets_in(self) -> int:
        """Of payload, as is `sent_octets`."""
        return int(self.line.octets_in)

    @property
    def sent(self) -> int:
        """Packets."""
        return int(self.line.sent)

    @property
    def sent_octets(self) -> int:
        return int(self.line.sent_octets)

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
            self.line.stream = stream.state
            self.line.given = False
            if self.heard_at is None:
                self.heard_at = now
        self.line.octets_in += len(packet.payload)
        stream.add(packet.sequence, packet.timestamp, now)
        return packet

    def packetize(self, audio: AudioPacket, now: float) -> bytes:
        """RTP for an audio packet, on our own SSRC, sequence and timestamp: what is sent keeps their distances."""
        line = self.line
        line.sent_at = now
        sequence, timestamp = line.sequence, line.timestamp
        if line.given:
            sequence += audio.sequence - line.given_sequence
            timestamp += audio.timestamp - line.given_timestamp
        elif line.started:
            sequence += 1
            timestamp += FRAME_TICKS
        line.given, line.given_sequence, line.given_timestamp = (
            True,
            audio.sequence,
            audio.timestamp,
        )
        return self._packet(sequence, timestamp, audio.payload, audio.marker)

    def frame(self, payload: bytes, now: float) -> bytes:
        """RTP for the 20 ms of our own that are due at `now`: the due time, not that of sending.

        The timestamp runs on through silence in whole frames, and what follows it is marked
        (RFC 3550 §5.1, RFC 7587 §4.1). As voice.c's pack.
        """
        line = self.line
        sequence, timestamp = line.sequence, line.timestamp
        marker = not line.started
        if line.started:
            passed = (now - line.sent_at) / FRAME_S + line.rest
            marker = passed >= PAUSE_FRAMES
            frames = round(passed) if marker else 1
            line.rest = passed - frames
            sequence += 1
            timestamp += frames * FRAME_TICKS
        line.sent_at, line.given = now, False
        return self._packet(sequence, timestamp, payload, marker)

    def _packet(self, sequence: int, timestamp: int, payload: bytes, marker: bool) -> bytes:
        line = self.line
        line.started = True
        line.sequence, line.timestamp = sequence & 0xFFFF, timestamp & 0xFFFFFFFF
        line.sent += 1
        line.sent_octets += len(payload)
        return rtp.pack_rtp(
            marker, self.payload_type, line.sequence, line.timestamp, self.ssrc, payload
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
            since = int((now - self.line.sent_at) * CLOCK_RATE_HZ)
            timestamp = (self.line.timestamp + since) & 0xFFFFFFFF
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
