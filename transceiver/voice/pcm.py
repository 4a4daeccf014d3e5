"""PCM of any rate and chunk size becomes 20 ms frames of one rate. Bounded, no I/O, no clock."""

from typing import Any, Final

import numpy as np
import soxr

from voicerelay.transceiver.voice.line import ffi, new_mouth
from voicerelay.transceiver.voice.opus import FRAME_S, Pcm

MIN_RATE: Final = 8_000  # Hz
MAX_RATE: Final = 96_000
RESAMPLER_QUALITY: Final = "HQ"
RESAMPLER_CHUNK_S: Final = (
    FRAME_S  # its memory grows with what it is given at once: 0.6 MB a second
)

# What `play` takes: int16 samples, or their bytes in little-endian order.
PcmLike = Pcm | bytes | bytearray | memoryview


def as_pcm(data: PcmLike, rate: int) -> Pcm:
    """The int16 samples of mono audio at `rate`, without a copy. Raises ValueError."""
    if not MIN_RATE <= rate <= MAX_RATE:
        raise ValueError(f"rate {rate} Hz is outside {MIN_RATE} to {MAX_RATE}")
    if isinstance(data, np.ndarray):
        if data.dtype != np.int16 or data.ndim != 1:
            raise ValueError(f"PCM is mono int16, not {data.dtype} of shape {data.shape}")
        return data
    view = memoryview(data)
    if view.format not in ("B", "b", "c", "h", "<h") or view.ndim != 1 or not view.contiguous:
        raise ValueError(f"PCM is int16 samples or their bytes, not a buffer of {view.format!r}")
    if view.nbytes % 2:
        raise ValueError(f"{view.nbytes} bytes are no whole number of int16 samples")
    return np.frombuffer(view, "<i2")


class Resampler:
    """One stretch of audio, from one rate to another; a new stretch takes a new resampler."""

    __slots__ = ("_given", "_made", "_stream", "rate", "target")

    def __init__(self, rate: int, target: int) -> None:
        self.rate, self.target = rate, target
        self._stream = soxr.ResampleStream(
            rate, target, 1, dtype="int16", quality=RESAMPLER_QUALITY
        )
        self._given = self._made = 0

    @property
    def held(self) -> int:
        """Samples at the target rate that were given and did not come out yet."""
        return -(-self._given * self.target // self.rate) - self._made

    def feed(self, pcm: Pcm, last: bool = False) -> Pcm:
        """What comes out for `pcm`; with `last` also all that was held."""
        out: Pcm = self._stream.resample_chunk(np.ascontiguousarray(pcm), last)
        self._given += len(pcm)
        self._made += len(out)
        return out


class FrameBuffer:
    """At most `frames` x 20 ms at `rate`: written in chunks of any size and rate, read in frames.

    The ring holds whole frames, so that a frame never wraps and is read where it lies. Where, is
    in `mouth`, for voice.c reads it too.
    """

    __slots__ = ("_mouth", "_resampler", "_ring", "rate", "samples")

    def __init__(self, rate: int, frames: int, mouth: Any = None) -> None:
        self.rate = rate
        self.samples = round(rate * FRAME_S)
        self._ring = np.zeros(frames * self.samples, np.int16)
        self._mouth = mouth = new_mouth() if mouth is None else mouth
        mouth.ring = ffi.from_buffer("int16_t[]", self._ring)
        mouth.capacity, mouth.samples = len(self._ring), self.samples
        self._resampler: Resampler | None = None
        self.clear()

    @property
    def waiting(self) -> int:
        """Samples at `rate` that were written and not read, those inside the resampler too."""
        return int(self._mouth.level + self._mouth.held)

    @property
    def room(self) -> int:
        """Samples at `rate` that can still be written."""
        return len(self._ring) - self.waiting

    def write(self, pcm: Pcm, rate: int) -> int:
        """Take as many samples of `pcm` as there is room for, and say how many."""
        resampler = self._resampler
        if resampler is not None and resampler.rate != rate:
            self._finish()
            resampler = None
        if rate == self.rate:
            taken = min(len(pcm), self.room)
            self._put(pcm[:taken])
            return taken
        if resampler is None:
            resampler = self._resampler = Resampler(rate, self.rate)
        taken = min(len(pcm), self.room * rate // self.rate)
        step = round(rate * RESAMPLER_CHUNK_S)
        for start in range(0, taken, step):
            self._put(resampler.feed(pcm[start : min(start + step, taken)]))
        self._mouth.held = resampler.held
        return taken

    def take(self) -> Pcm | None:
        """The next whole frame, valid until the next write; None when there is none."""
        if self._mouth.level < self.samples:
            return None
        return self._advance(self.samples)

    def take_tail(self) -> tuple[Pcm, int] | None:
        """The next frame of what is left, padded with silence, and its samples without padding."""
        self._finish()
        read = self._mouth.read
        real = min(self._mouth.level, self.samples)
        if not real:
            return None
        self._ring[read + real : read + self.samples] = 0
        return self._advance(real), real

    def clear(self) -> None:
        """Forget everything; what is written next knows nothing of it."""
        mouth = self._mouth
        mouth.read = mouth.write = mouth.level = mouth.held = 0
        self._resampler = None

    def _finish(self) -> None:
        if self._resampler is not None:
            self._put(self._resampler.feed(np.empty(0, np.int16), last=True))
            self._resampler = None
            self._mouth.held = 0

    def _put(self, pcm: Pcm) -> None:
        ring, mouth = self._ring, self._mouth
        start = mouth.write
        end = start + len(pcm)
        if end <= len(ring):
            ring[start:end] = pcm
        else:
            first = len(ring) - start
            ring[start:] = pcm[:first]
            ring[: end - len(ring)] = pcm[first:]
        mouth.write = end % len(ring)
        mouth.level += len(pcm)

    def _advance(self, real: int) -> Pcm:
        mouth = self._mouth
        start = mouth.read
        end = start + self.samples
        mouth.level -= real
        if mouth.level:
            mouth.read = end % len(self._ring)
        else:  # begin anew: the first frames' memory is still warm
            mouth.read = mouth.write = 0
        return self._ring[start:end]
