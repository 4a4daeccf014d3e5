"""What an agent hears: the packets of a call go to whoever asked for them, decoded or as they are."""

import asyncio
import math
import time
from collections import deque
from typing import NamedTuple

from voicerelay.shm.counters import TransceiverCounter
from voicerelay.transceiver.agent import DEFAULT_LISTEN_RATE, AudioPacket, Speech
from voicerelay.transceiver.voice.activity import VoiceActivity
from voicerelay.transceiver.voice.inbound import Inbound
from voicerelay.transceiver.voice.line import ffi, new_ear
from voicerelay.transceiver.voice.opus import FRAME_S, RATES, Pcm
from voicerelay.transceiver.voice.rtp import RtpPacket
from voicerelay.transceiver.voice.unread import Unread

MAX_UNREAD_S = 1.0
MAX_UNREAD_FRAMES = round(MAX_UNREAD_S / FRAME_S)
MAX_UNREAD_PACKETS = 50  # one second of voice
MAX_UNREAD_SPEECH = 64  # beginnings and ends


FRAME_MS = round(FRAME_S * 1000)


class Mended(NamedTuple):
    """How gaps were filled so far, in ms: see Stats."""

    recovered_ms: int = 0
    concealed_ms: int = 0
    silent_ms: int = 0


class Hearing:
    """One call's. Nothing is decoded before somebody listens.

    The first reader begins with what came while nobody had asked yet, at most MAX_UNREAD_PACKETS.
    """

    def __init__(self) -> None:
        self.ear = new_ear()  # whose decoder voice.c uses, if it is there
        self.packets_in = 0
        self._inbound: Inbound | None = None
        self._frames: Unread[Pcm] | None = None
        self._packets: Unread[AudioPacket] | None = None
        self._speech: Unread[Speech] | None = None
        self._activity: VoiceActivity | None = None
        self._before: deque[tuple[RtpPacket, float]] = deque(maxlen=MAX_UNREAD_PACKETS)
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._missed = 0  # packets that came before anybody asked, and gave way
        self._heard_frames = 0
        self._mended = Mended()  # by earlier decoders
        self._packets_unread = self._frames_unread = 0  # by earlier readers

    def listen(self, rate: int) -> Unread[Pcm]:
        """Frames from now on; an earlier listener's iteration ends. Raises ValueError."""
        if rate not in RATES:
            raise ValueError(f"listen: {rate} Hz is none of {', '.join(map(str, RATES))}")
        self._give_up_gaps(rate)
        if self._frames is not None:
            self._frames.discard()
            self._frames_unread += self._frames.dropped
        self._frames = Unread(MAX_UNREAD_FRAMES)
        self._decode(rate)
        return self._frames

    def packets(self) -> Unread[AudioPacket]:
        """Opus packets from now on; an earlier reader's iteration ends."""
        if self._packets is not None:
            self._packets.discard()
            self._packets_unread += self._packets.dropped
        self._packets = Unread(MAX_UNREAD_PACKETS)
        for packet, _ in self._take_before():
            self._hand_on(packet, self._packets)
        self.ear.decoder = ffi.NULL  # every packet is wanted as it is
        if self._closed:
            self._packets.close()
        return self._packets

    def speech(self) -> Unread[Speech]:
        """Beginnings and ends of speech. Raises ActivityMissing."""
        self._activity = VoiceActivity(self._heard_frames * FRAME_MS)
        if self._speech is not None:
            self._speech.discard()
        self._speech = Unread(MAX_UNREAD_SPEECH)
        self._decode(self._inbound.rate if self._inbound is not None else DEFAULT_LISTEN_RATE)
        return self._speech

    def receive(self, packet: RtpPacket, now: float) -> TransceiverCounter | None:
        """A packet that SRTP has authenticated; the reason if its voice is dropped."""
        self.packets_in += 1
        if self._closed:
            return None
        if self._packets is not None:
            self._hand_on(packet, self._packets)
        inbound = self._inbound
        if inbound is None:
            if self._packets is None:
                self._missed += len(self._before) == MAX_UNREAD_PACKETS
                self._before.append((packet, now))
            return None
        reason = inbound.receive(packet, now)
        if inbound.deadline is not None and self._timer is None:
            self._arm(inbound.deadline)
        return reason

    def heard(self, frame: Pcm) -> None:
        """The packet that was next, decoded by voice.c with the decoder of `ear`."""
        self.packets_in += 1
        self._emit(frame)

    def mended(self) -> Mended:
        """By all decoders of the call."""
        if self._inbound is None:
            return self._mended
        stats, ms = self._inbound.stats, 1000 / self._inbound.rate
        samples = stats.recovered_samples, stats.concealed_samples, stats.silent_samples
        return Mended(
            *(before + round(n * ms) for before, n in zip(self._mended, samples, strict=True))
        )

    def unread_frames(self) -> int:
        """Dropped so far because nobody read them in time."""
        return self._frames_unread + (self._frames.dropped if self._frames is not None else 0)

    def unread_packets(self) -> int:
        """Dropped so far because nobody read them in time."""
        return self._packets_unread + (self._packets.dropped if self._packets is not None else 0)

    def close(self) -> None:
        """The call has ended: what waits can be read, then every iteration ends."""
        self._closed = True
        self.ear.decoder = ffi.NULL
        for reader in (self._frames, self._packets, self._speech):
            if reader is not None:
                reader.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._mended, self._inbound = self.mended(), None

    def _give_up_gaps(self, rate: int) -> None:
        """Before another rate: what waits for its turn is the earlier listener's."""
        if self._inbound is not None and self._inbound.rate != rate:
            self._inbound.expire(math.inf)

    def _decode(self, rate: int) -> None:
        """See that frames of this rate come; what came before is heard first."""
        if self._inbound is None or self._inbound.rate != rate:
            self._mended = self.mended()
            self._inbound = Inbound(rate, self._emit, self.ear)
            for packet, arrived in self._take_before():
                self._inbound.receive(packet, arrived)
            if self._inbound.deadline is not None and self._timer is None and not self._closed:
                self._arm(self._inbound.deadline)
        if self._closed:
            self.close()
        elif self._packets is None:
            self.ear.decoder = self._inbound.decoder

    def _take_before(self) -> list[tuple[RtpPacket, float]]:
        before = list(self._before)
        self._before.clear()
        self._packets_unread, self._missed = self._packets_unread + self._missed, 0
        return before

    def _emit(self, frame: Pcm) -> None:
        self._heard_frames += 1
        if self._frames is not None:
            self._frames.put(frame)
        if self._activity is not None and self._speech is not None:
            change = self._activity.feed(frame, round(len(frame) / FRAME_S))
            if change is not None:
                self._speech.put(change)

    def _hand_on(self, packet: RtpPacket, reader: Unread[AudioPacket]) -> None:
        if packet.payload:
            reader.put(
                AudioPacket(packet.payload, packet.sequence, packet.timestamp, packet.marker)
            )

    def _arm(self, deadline: float) -> None:
        self._timer = asyncio.get_running_loop().call_at(deadline, self._expire)

    def _expire(self) -> None:
        """A gap has been waited for; without this the end of a call would wait for ever."""
        self._timer = None
        if self._inbound is not None:
            self._inbound.expire(time.monotonic())
            if self._inbound.deadline is not None:
                self._arm(self._inbound.deadline)
