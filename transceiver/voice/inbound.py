"""What the caller says: RTP packets in, 20 ms of PCM out, mended where packets are missing. No I/O, no clock.

There is no playout clock: the packet that is next is decoded and handed on at once. So nothing
piles up when the sender's clock is fast or slow (its frames come a little faster or slower), and
after a loss the delay is at once what it was before.

A gap in the sequence is waited for, briefly; then the timestamps say how much is missing, and the
gap is filled: concealment, after that silence, and the last lost packet from the FEC of the one
that follows. Each 20 ms slot is emitted once, in order.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from voicerelay.shm.counters import TransceiverCounter
from voicerelay.transceiver.voice import opus
from voicerelay.transceiver.voice.line import ffi, new_ear
from voicerelay.transceiver.voice.opus import Pcm
from voicerelay.transceiver.voice.rtp import RtpPacket

CLOCK_RATE_HZ = 48_000  # RTP clock of Opus, RFC 7587 §4.1
MIN_WAIT_S = 0.03  # for a missing packet, where packets come in order
MAX_WAIT_S = 0.1
WAIT_MARGIN_S = 0.01  # above what was seen
WAIT_DECAY = 1 / 16  # of the way back to MIN_WAIT_S, each time that waiting was in vain
MAX_HELD_PACKETS = 16  # while waiting; then the gap is filled at once
MAX_CONCEAL_S = 0.1  # of a gap; libopus has faded out by then
# Of gaps and pauses, at once; and then no faster than time goes by, whatever the timestamps say.
MAX_FILL_S = 0.5  # more than the 400 ms between packets of DTX
MAX_DROPOUT = 3000  # packets, RFC 3550 A.1: further ahead it is another stream
MAX_MISORDER = 100  # packets, RFC 3550 A.1: further behind it is another stream
MAX_LOST_REMEMBERED = 64  # packets, to tell a late one from a duplicate

Reason = TransceiverCounter


@dataclass(slots=True)
class InboundStats:
    """Of all streams so far: packets; samples (at the rate of the PCM) where it says so.

    lost: given up. reordered: came after a later one, in time.
    resyncs: times that the timeline was left, by a change of source or a jump.
    """

    lost: int = 0
    late: int = 0
    duplicate: int = 0
    stray: int = 0
    corrupt: int = 0
    reordered: int = 0
    resyncs: int = 0
    recovered_samples: int = 0
    concealed_samples: int = 0
    silent_samples: int = 0


class Inbound:
    """One direction of one call: frames of 20 ms, int16 mono at `rate` (one of opus.RATES).

    `receive` and `expire` may leave another `deadline` behind, or None: `expire` is due then. It
    may come early or late.
    """

    __slots__ = (
        "_decoder",
        "_ear",
        "_emit",
        "_fill_s",
        "_filled_at",
        "_frame",
        "_held",
        "_lost",
        "_rest",
        "_stray",
        "_wait_s",
        "deadline",
        "rate",
        "stats",
    )

    def __init__(self, rate: int, emit: Callable[[Pcm], None], ear: Any = None) -> None:
        self.rate = rate
        self.stats = InboundStats()
        self.deadline: float | None = None
        self._emit = emit
        self._decoder = opus.Decoder(rate)
        self._frame = round(rate * opus.FRAME_S)  # samples
        self._wait_s = MIN_WAIT_S
        self._fill_s, self._filled_at = MAX_FILL_S, 0.0  # what may be filled as of then
        # The packet that is next, and whether one is missing before it, which its FEC may hold.
        self._ear = ear = new_ear() if ear is None else ear
        ear.decoder = ffi.NULL
        ear.begun = ear.busy = ear.torn = False
        ear.samples, ear.ticks = self._frame, CLOCK_RATE_HZ // rate
        self._rest: Pcm | None = None  # less than a frame, of packets that are not 20 ms
        self._held: dict[int, tuple[float, RtpPacket]] = {}  # sequence -> arrival, packet
        self._lost: dict[int, float] = {}  # sequence -> when the gap was seen
        self._stray: int | None = None  # what would follow the last stray packet

    def receive(self, packet: RtpPacket, now: float) -> Reason | None:
        """Take in one packet that SRTP has authenticated; the reason if it is dropped.

        An empty payload (padding, or another payload type in the same sequence) keeps its place.
        """
        _, _, sequence, timestamp, ssrc, payload = packet
        ear = self._ear
        if (
            sequence != ear.sequence
            or timestamp != ear.timestamp
            or ssrc != ear.ssrc
            or not ear.begun
            or self._held
            or not payload
        ):
            reason = self._place(packet, now)
        else:
            reason = self._play(packet)
        ear.busy = bool(self._held) or self._rest is not None
        return reason

    def expire(self, now: float) -> None:
        """Give up what was waited for long enough, and hand on what came after it."""
        self._drain(now)
        self._ear.busy = bool(self._held) or self._rest is not None

    @property
    def decoder(self) -> Any:
        """libopus's, for voice.c."""
        return self._decoder.state

    # ---- order -------------------------------------------------------------------------------

    def _place(self, packet: RtpPacket, now: float) -> Reason | None:
        """Any packet: in its place, held, or dropped."""
        sequence, ear = packet.sequence, self._ear
        if packet.ssrc != ear.ssrc or not ear.begun:
            self._restart(packet, now)
        ahead = (sequence - ear.sequence) & 0xFFFF
        if ahead >= 0x10000 - MAX_MISORDER or sequence in self._held:
            return self._behind(sequence, now)
        if ahead > MAX_DROPOUT:
            # RFC 3550 A.1: two in a row are a new beginning.
            if sequence != self._stray:
                self._stray = (sequence + 1) & 0xFFFF
                self.stats.stray += 1
                return Reason.DROPPED_STRAY_VOICE
            self._restart(packet, now)
            ahead = 0
        reason = None
        if packet.payload and not opus.is_packet(packet.payload):
            self.stats.corrupt += 1
            reason = Reason.DROPPED_CORRUPT_VOICE
            packet = packet._replace(payload=b"")
        if any((other - ear.sequence) & 0xFFFF > ahead for other in self._held):
            self.stats.reordered += 1
            if not ahead:
                self._learn(now - self._gap_seen())
        self._held[sequence] = now, packet
        self._drain(now)
        return reason

    def _drain(self, now: float, all_of_it: bool = False) -> None:
        """Play what is held, as far as it is next or has waited for its predecessor long enough."""
        ear = self._ear
        while self._held:
            sequence = min(self._held, key=lambda held: (held - ear.sequence) & 0xFFFF)
            if sequence != ear.sequence:
                seen = self._gap_seen()
                full = len(self._held) >= MAX_HELD_PACKETS
                if now < seen + self._wait_s and not full and not all_of_it:
                    self.deadline = seen + self._wait_s
                    return
                self._give_up(sequence, seen)
            _, packet = self._held.pop(sequence)
            if packet.payload:
                self._bridge(packet, now)
            self._play(packet)
        self.deadline = None

    def _behind(self, sequence: int, now: float) -> Reason:
        seen = self._lost.pop(sequence, None)
        if seen is None:
            self.stats.duplicate += 1
            return Reason.DROPPED_DUPLICATE_VOICE
        self._learn(now - seen)
        self.stats.late += 1
        return Reason.DROPPED_LATE_VOICE

    def _gap_seen(self) -> float:
        """When the first of the held packets came: since then the one before them is missing."""
        return min(arrival for arrival, _ in self._held.values())

    def _give_up(self, sequence: int, seen: float) -> None:
        """What lies before `sequence` is lost."""
        missing = (sequence - self._ear.sequence) & 0xFFFF
        self.stats.lost += missing
        self._remember_lost(sequence, missing, seen)
        self._wait_s += (MIN_WAIT_S - self._wait_s) * WAIT_DECAY
        self._ear.sequence, self._ear.torn = sequence, True

    def _remember_lost(self, sequence: int, count: int, seen: float) -> None:
        for back in range(min(count, MAX_LOST_REMEMBERED), 0, -1):
            self._lost[(sequence - back) & 0xFFFF] = seen
        while len(self._lost) > MAX_LOST_REMEMBERED:
            del self._lost[next(iter(self._lost))]

    def _learn(self, waited_s: float) -> None:
        """A packet came so long after its gap was seen. What is too late anyway teaches nothing."""
        if waited_s <= MAX_WAIT_S:
            self._wait_s = min(MAX_WAIT_S, max(self._wait_s, waited_s + WAIT_MARGIN_S))

    def _restart(self, packet: RtpPacket, now: float) -> None:
        """Another stream begins with this packet."""
        ear = self._ear
        if ear.begun:
            self._drain(now, all_of_it=True)
            self._decoder.reset()
            self.stats.resyncs += 1
        ear.ssrc, ear.sequence, ear.timestamp = packet.ssrc, packet.sequence, packet.timestamp
        ear.begun = True
        self._rest = self._stray = None
        self._lost.clear()
        # What was sent before it and overtaken by it is late.
        self._remember_lost(packet.sequence, MAX_HELD_PACKETS, now)

    # ---- sound -------------------------------------------------------------------------------

    def _play(self, packet: RtpPacket) -> Reason | None:
        """The packet that is next, after what was missing before it."""
        ear = self._ear
        ear.sequence = (packet.sequence + 1) & 0xFFFF
        if not packet.payload:
            ear.torn = True
            return None
        try:
            pcm = self._decoder.decode(packet.payload)
        except opus.OpusError:
            # The next packet's timestamp will say how much is missing, and its FEC may hold it.
            ear.torn = True
            self.stats.corrupt += 1
            return Reason.DROPPED_CORRUPT_VOICE
        ear.torn = False
        ear.timestamp = (packet.timestamp + len(pcm) * ear.ticks) & 0xFFFFFFFF
        if self._rest is None and len(pcm) == self._frame:
            self._emit(pcm)
        else:
            self._cut(pcm)
        return None

    def _bridge(self, packet: RtpPacket, now: float) -> None:
        """Fill the time between the last packet and this one: lost packets, or a pause of DTX."""
        ear = self._ear
        gap = (packet.timestamp - ear.timestamp) & 0xFFFFFFFF
        if not gap:
            return
        if gap >= 0x80000000:  # back in time; what is there is played on
            self.stats.resyncs += 1
            return
        # Whole packets, or whole frames, so that a sender's odd timestamp shifts no frame for good.
        grain = min(self._frame, opus.packet_samples(packet.payload, self.rate))
        samples = (gap // ear.ticks + grain // 2) // grain * grain
        self._fill_s = min(MAX_FILL_S, self._fill_s + max(0.0, now - self._filled_at))
        self._filled_at = now
        most = round(self._fill_s * self.rate) // grain * grain
        if samples > most:
            self.stats.resyncs += 1
            samples = most
        self._fill_s -= samples / self.rate
        recovered = 0
        if ear.torn and opus.has_fec(packet.payload):
            recovered = opus.frame_samples(packet.payload, self.rate)
            if recovered > samples:
                recovered = 0
        concealed = min(samples - recovered, round(MAX_CONCEAL_S * self.rate))
        silent = samples - recovered - concealed
        self.stats.recovered_samples += recovered
        self.stats.concealed_samples += concealed
        self.stats.silent_samples += silent
        if concealed:
            self._cut(self._decoder.conceal(concealed))
        if silent:
            self._cut(np.zeros(silent, np.int16))
        if recovered:
            self._cut(self._decoder.recover(packet.payload, recovered))

    def _cut(self, pcm: Pcm) -> None:
        """Emit whole frames; the rest waits for more."""
        if self._rest is not None:
            pcm = np.concatenate((self._rest, pcm))
        whole = len(pcm) - len(pcm) % self._frame
        for start in range(0, whole, self._frame):
            self._emit(pcm[start : start + self._frame])
        self._rest = pcm[whole:] if whole < len(pcm) else None
