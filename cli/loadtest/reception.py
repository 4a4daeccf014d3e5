"""How the server's voice arrives, told from RTP headers alone: loss, order, gaps, lateness. Pure."""

import struct

from voicerelay.cli.loadtest.talk import PACKET_S
from voicerelay.cli.loadtest.tally import Arrivals
from voicerelay.transceiver.voice.path import CLOCK_RATE_HZ, MAX_SEQUENCE_JUMP, InboundStream

ON_SCHEDULE_S = 0.02  # a frame later than that behind its place in the stream is late
BASE_S = 10.0  # the schedule is that of the quickest packet of the last 10 to 20 s: clocks drift
RESYNC_S = 2.0  # a jump of the timestamps against the clock: the sender has begun anew
WINDOW = 256  # sequence numbers back, in which duplicates are told from latecomers
_HEADER = struct.Struct("!BBHII")
_HALF = 1 << 15


class Reception:
    """Of one call. `stream` is what reports to the server are made of (RFC 3550 A.1, A.8)."""

    __slots__ = (
        "_base",
        "_base_at",
        "_base_before",
        "_expected_before",
        "_last",
        "_seen",
        "_sums",
        "received",
        "stream",
    )

    def __init__(self, sums: Arrivals) -> None:
        self.stream: InboundStream | None = None
        self.received = 0
        self._expected_before = 0  # of streams before the present one
        self._sums = sums
        self._seen = 0  # bit n: the n-th packet before the highest is here
        self._last = (0.0, 0, 0)  # arrival, sequence, timestamp
        self._base = self._base_before = 0.0
        self._base_at = 0.0

    @property
    def expected(self) -> int:
        """Packets that the server has sent, by its sequence numbers."""
        stream = self.stream
        return self._expected_before + (stream.highest - stream.base + 1 if stream else 0)

    @property
    def jitter_s(self) -> float:
        """Interarrival jitter (RFC 3550 §6.4.1)."""
        return self.stream.jitter / CLOCK_RATE_HZ if self.stream else 0.0

    def add(self, data: bytes, at: float) -> bool:
        """One RTP packet, encrypted or not, that came `at`; False for a duplicate or what is none."""
        if len(data) < _HEADER.size:
            return False
        _, _, sequence, timestamp, ssrc = _HEADER.unpack_from(data)
        stream = self.stream
        if stream is None or stream.ssrc != ssrc:
            self._begin(ssrc, sequence, timestamp, at)
            return True
        ahead = (sequence - stream.highest) & 0xFFFF
        if MAX_SEQUENCE_JUMP < ahead < _HALF:
            self._begin(ssrc, sequence, timestamp, at)
            return True
        if ahead < _HALF and ahead:
            self._seen = (self._seen << ahead | 1) & ((1 << WINDOW) - 1)
        elif not self._is_late_but_new((-ahead) & 0xFFFF):
            self._sums.duplicates += 1
            return False
        stream.add(sequence, timestamp, at)
        self.received += 1
        self._sums.frames += 1
        self._judge(sequence, timestamp, at)
        return True

    def _begin(self, ssrc: int, sequence: int, timestamp: int, at: float) -> None:
        self._expected_before = self.expected
        self.stream = InboundStream(ssrc, sequence, sequence)
        self.stream.add(sequence, timestamp, at)
        self.received += 1
        self._sums.frames += 1
        self._seen = 1
        self._last = at, sequence, timestamp
        self._new_schedule(at - timestamp / CLOCK_RATE_HZ, at)

    def _is_late_but_new(self, behind: int) -> bool:
        bit = 1 << behind
        if behind >= WINDOW or self._seen & bit:
            return False
        self._seen |= bit
        self._sums.reordered += 1
        return True

    def _judge(self, sequence: int, timestamp: int, at: float) -> None:
        last_at, last_sequence, last_timestamp = self._last
        steps = (sequence - last_sequence + _HALF & 0xFFFF) - _HALF
        ticks = (timestamp - last_timestamp + (1 << 31) & 0xFFFFFFFF) - (1 << 31)
        if steps > 0:
            silence_s = max(0.0, ticks / CLOCK_RATE_HZ - steps * PACKET_S)
            self._sums.gaps.add(max(0.0, at - last_at - silence_s))
            self._last = at, sequence, timestamp
        # The transit of the last packet tells which turn of the 32-bit timestamp this is.
        transit = at - timestamp / CLOCK_RATE_HZ
        turn_s = (1 << 32) / CLOCK_RATE_HZ
        transit -= turn_s * round((transit - self._base) / turn_s)
        if abs(transit - self._base) > RESYNC_S:
            self._new_schedule(transit, at)
        if at - self._base_at > BASE_S:
            self._base_before, self._base, self._base_at = self._base, transit, at
        elif transit < self._base:
            self._base = transit
        lateness = transit - min(self._base, self._base_before)
        self._sums.lateness.add(lateness)
        self._sums.late += lateness > ON_SCHEDULE_S

    def _new_schedule(self, transit: float, at: float) -> None:
        self._base = self._base_before = transit
        self._base_at = at
