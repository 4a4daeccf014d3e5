"""What the agent says: PCM in, Opus payloads out, one for each 20 ms. No I/O, no clock."""

import math
from collections import deque
from collections.abc import Callable
from typing import Final

from voicerelay.transceiver.voice import opus
from voicerelay.transceiver.voice.line import ffi, new_mouth
from voicerelay.transceiver.voice.opus import FRAME_S
from voicerelay.transceiver.voice.pcm import FrameBuffer, PcmLike, as_pcm

OUTPUT_BUFFER_S: Final = 1.0
WAKE_ROOM_S: Final = 0.2  # a writer that was refused is woken once so much is free again
UTTERANCE_GAP_S: Final = 1.0  # after so long a silence the next write begins an utterance
ENCODER_IDLE_S: Final = 30.0  # after so long a silence the encoder and the buffer are let go
COMPLEXITY_STEPS: Final = (opus.DEFAULT_COMPLEXITY, 3, 1, 0)  # by the pacer's load level

FEC_ON_LOSS: Final = 0.02  # a fraction of packets, as the peer reports it
FEC_OFF_LOSS: Final = 0.005
FEC_MEMORY_REPORTS: Final = 5
FEC_STEP_PERCENT: Final = 5
FEC_MAX_PERCENT: Final = 25


class LossMemory:
    """Whether in-band FEC is worth its bits: on with the first bad report, off after clean ones."""

    __slots__ = ("_reports", "percent")

    def __init__(self) -> None:
        self.percent = 0  # of loss to prepare for; 0: no FEC
        self._reports: deque[float] = deque(maxlen=FEC_MEMORY_REPORTS)

    def reported(self, fraction: float) -> None:
        """A report of the peer: this fraction of our packets was lost since the one before."""
        self._reports.append(fraction)
        worst = max(self._reports)
        if worst >= FEC_ON_LOSS or (self.percent and worst >= FEC_OFF_LOSS):
            steps = math.ceil(worst * 100 / FEC_STEP_PERCENT)
            self.percent = min(steps * FEC_STEP_PERCENT, FEC_MAX_PERCENT)
        else:
            self.percent = 0


class Outbound:
    """The send half of one call's voice.

    An utterance begins with the first write after the start, after `interrupt`, after
    `end_utterance`, or after UTTERANCE_GAP_S without output; the encoder runs at its rate.

    `changed` is called when a refused writer has room again, when the output has run dry and when
    it was interrupted. Silence costs nothing: `next_frame` says None, and is not to be called
    again before the next write.
    """

    __slots__ = (
        "_buffer",
        "_changed",
        "_dry_since",
        "_earlier_ms",
        "_encoder",
        "_fresh",
        "_loss",
        "interrupted_ms",
        "interrupts",
        "mouth",
    )

    def __init__(self, changed: Callable[[], None], dtx: bool = False) -> None:
        self._changed = changed
        self.mouth = new_mouth()  # where voice.c takes frames too
        self.mouth.least = opus.DTX_BYTES if dtx else 0
        self._buffer: FrameBuffer | None = None
        self._encoder: opus.Encoder | None = None
        self._loss = LossMemory()
        self._earlier_ms = 0  # sent of the utterances before this one
        self._fresh = True  # the next write begins an utterance
        self._dry_since: float | None = None
        self.interrupts = 0
        self.interrupted_ms = 0  # dropped by them

    # ---- for the agent -----------------------------------------------------------------------

    def write(self, pcm: PcmLike, rate: int, now: float) -> int:
        """Take as many samples as there is room for, and say how many.

        pcm: mono int16 or its little-endian bytes, any length. rate: MIN_RATE to MAX_RATE, in Hz.
        Raises ValueError.
        """
        samples = as_pcm(pcm, rate)
        if not len(samples):
            return 0
        if self._dry_since is not None and now - self._dry_since >= UTTERANCE_GAP_S:
            self._fresh = True
        if self._fresh:
            self._begin(rate)
        buffer = self._buffer
        assert buffer is not None
        taken = buffer.write(samples, rate)
        self.mouth.fed = True
        if taken < len(samples):  # else another writer may be waiting still
            self.mouth.refused = True
        self._dry_since = None
        return taken

    def interrupt(self) -> int:
        """Drop what waits; the milliseconds of the utterance that were really sent.

        A plain cut: a fade would be one more packet of speech over the caller's own, and the
        listener's concealment fades out what stops anyway (RFC 6716 §4.4).
        """
        played_ms = self.played_ms
        buffer = self._buffer
        if buffer is not None:
            self.interrupted_ms += buffer.waiting * 1000 // buffer.rate
            buffer.clear()
        self.interrupts += 1
        self._settle()
        self._fresh = True
        self.mouth.fed = self.mouth.refused = False
        self._changed()
        return played_ms

    def close(self) -> int:
        """The call has ended: as `interrupt`, and nothing is held any more but figures."""
        played_ms = self.interrupt()
        self._let_go()
        self._changed = _nobody
        return played_ms

    def end_utterance(self) -> None:
        """All that was written has been sent, and the agent knows: the next write begins another."""
        if self.dry:
            self._fresh = True

    @property
    def dry(self) -> bool:
        """Whether all that was written has been sent."""
        return self._buffer is None or not self._buffer.waiting

    @property
    def played_ms(self) -> int:
        """Of the latest utterance, sent so far; padding does not count."""
        played = int(self.mouth.played)
        return played * 1000 // self._buffer.rate if self._buffer is not None else 0

    @property
    def frames(self) -> int:
        """Said so far."""
        return int(self.mouth.frames)

    @property
    def total_played_ms(self) -> int:
        """Of all utterances, sent so far; padding does not count."""
        return self._earlier_ms + self.played_ms

    # ---- for the pacer and the session ---------------------------------------------------------

    def next_frame(self, now: float, load: int = 0) -> bytes | None:
        """The payload of the 20 ms that are due at `now`; None when there is nothing to say.

        b"" means not this time: a partial frame waits one turn for the rest of it, or DTX.
        load: index of COMPLEXITY_STEPS. Raises OpusError. As voice.c's voice_turn, where it is not plain.
        """
        buffer, encoder, mouth = self._buffer, self._encoder, self.mouth
        if buffer is None or encoder is None:
            return None
        fed, mouth.fed = mouth.fed, False
        frame, real = buffer.take(), buffer.samples
        if frame is None:
            if fed:
                return b""
            tail = buffer.take_tail()
            if tail is None:
                self._dry(now)
                return None
            frame, real = tail
        if load != mouth.load:
            mouth.load = load
            encoder.set_complexity(COMPLEXITY_STEPS[load])
        if mouth.stale:
            mouth.stale = False
            encoder.set_fec(self._loss.percent)
        payload = encoder.encode(frame)
        mouth.played += real
        mouth.frames += 1
        if mouth.refused and buffer.room >= mouth.wake_room:
            self.wake()
        return b"" if len(payload) <= mouth.least else payload

    def wake(self) -> None:
        """There is room for whoever was refused."""
        self.mouth.refused = False
        self._changed()

    def loss_reported(self, fraction: float) -> None:
        """The peer's report about our packets; the next frame is encoded accordingly."""
        before = self._loss.percent
        self._loss.reported(fraction)
        if self._loss.percent != before:
            self.mouth.stale = True

    def sweep(self, now: float) -> None:
        """Let the encoder go after a long silence; called about once a second."""
        if not self.dry:
            return
        if self._dry_since is None:  # interrupted, and not asked for a frame since
            self._dry_since = now
        elif now - self._dry_since >= ENCODER_IDLE_S:
            self._let_go()

    def _let_go(self) -> None:
        self._settle()
        self.mouth.encoder = self.mouth.ring = ffi.NULL
        self._encoder = self._buffer = None
        self._fresh = True

    def _begin(self, rate: int) -> None:
        self._fresh = False
        self._settle()
        wanted = next((r for r in opus.RATES if r >= rate), opus.RATES[-1])
        if self._buffer is not None and self._buffer.rate == wanted:
            return
        mouth = self.mouth
        mouth.encoder = ffi.NULL
        self._buffer = FrameBuffer(wanted, round(OUTPUT_BUFFER_S / FRAME_S), mouth)
        self._encoder = encoder = opus.Encoder(wanted, complexity=COMPLEXITY_STEPS[mouth.load])
        encoder.set_dtx(mouth.least > 0)
        mouth.encoder, mouth.wake_room = encoder.state, round(wanted * WAKE_ROOM_S)
        mouth.stale = self._loss.percent > 0

    def _settle(self) -> None:
        """The utterance is over."""
        self._earlier_ms += self.played_ms
        self.mouth.played = 0

    def _dry(self, now: float) -> None:
        if self._dry_since is None:
            self._dry_since = now
        self._changed()


def _nobody() -> None:
    """Waits any more."""
