"""Finds the marks again in what comes back: the delay from mouth to ear. Sans-IO."""

from collections import deque
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from voicerelay.cli.loadtest.speech import MARK_PERIOD_S, mark
from voicerelay.cli.loadtest.talk import PACKET_S
from voicerelay.transceiver.voice.opus import Decoder, OpusError, Pcm

RATE = 16_000
LIKENESS = 0.5  # 0..1; below, it is no mark
MAX_KEPT_PACKETS = 2 * round(MARK_PERIOD_S / PACKET_S)
MAX_MARKS = 8  # under way

Wave = npt.NDArray[np.floating[Any]]


class Ear:
    """Of one call. Delay: from a sample being spoken, 20 ms before its packet can leave, to its packet being
    there: no playout buffer is in it. It is told up to MARK_PERIOD_S. Times are seconds of one clock.
    """

    def __init__(self) -> None:
        self._decoder = Decoder(RATE)
        self._heard: deque[tuple[float, Pcm]] = deque(maxlen=MAX_KEPT_PACKETS)
        self._marks: deque[float] = deque(maxlen=MAX_MARKS)
        self.missed = 0

    def mark_sent(self, at: float) -> None:
        """A packet that begins with a mark has been sent."""
        self._marks.append(at - PACKET_S)

    def packet_came(self, payload: bytes, at: float) -> None:
        try:
            self._heard.append((at, self._decoder.decode(payload)))
        except OpusError:
            return

    def delays(self, now: float) -> list[float]:
        """Of the marks whose time is over, in seconds. Call it about once a second."""
        found = []
        while self._marks and now - self._marks[0] > MARK_PERIOD_S:
            spoken = self._marks.popleft()
            delay = self._find(spoken)
            if delay is None:
                self.missed += 1
            else:
                found.append(delay)
        return found

    def last_delays(self) -> list[float]:
        """Of the marks that have been heard when the call ends; the others had no time, so none is missed."""
        found = [self._find(spoken) for spoken in self._marks]
        self._marks.clear()
        return [delay for delay in found if delay is not None]

    def _find(self, spoken: float) -> float | None:
        inside = [(at, pcm) for at, pcm in self._heard if spoken < at < spoken + MARK_PERIOD_S]
        if not inside:
            return None
        starts = np.cumsum([0] + [len(pcm) for _, pcm in inside])
        where = find_mark(np.concatenate([pcm for _, pcm in inside]))
        if where is None:
            return None
        packet = int(np.searchsorted(starts, where, side="right")) - 1
        return inside[packet][0] + (where - int(starts[packet])) / RATE - spoken


def find_mark(pcm: Pcm) -> int | None:
    """The sample at which a mark begins: where the correlation is highest, if that is a mark at all."""
    template = _template()
    if len(pcm) < len(template):
        return None
    wave = pcm.astype(np.float64)
    size = 1 << (len(wave) + len(template)).bit_length()
    products = np.fft.irfft(np.fft.rfft(wave, size) * np.conj(np.fft.rfft(template, size)), size)
    starts = len(wave) - len(template) + 1
    energy = np.concatenate(([0.0], np.cumsum(wave**2)))
    scale = np.sqrt(energy[len(template) :] - energy[: -len(template)]) + 1000  # silence is no mark
    likeness = products[:starts] / scale
    best = int(likeness.argmax())
    return best if likeness[best] > LIKENESS else None


@cache
def _template() -> Wave:
    """Of length 1."""
    wave = mark(RATE).astype(np.float64)
    return wave / float(np.sqrt(wave @ wave))
