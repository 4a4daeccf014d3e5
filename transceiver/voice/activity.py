"""Voice activity: when the caller begins and stops to speak. The detector is a package, the rest is patience."""

import importlib
from typing import Any

import numpy as np

from voicerelay.transceiver.agent import Speech
from voicerelay.transceiver.voice.opus import FRAME_S, Pcm

AGGRESSIVENESS = 2  # of the detector: 0 hears speech everywhere, 3 misses some
START_FRAMES = 5  # voiced in a row: a click is shorter, and so is what begins a noise
STOP_FRAMES = 25  # not voiced in a row: half a second, longer than a pause between words
DETECTOR_RATES = (8_000, 16_000, 48_000)  # Hz; others are repeated up to the last
FRAME_MS = round(FRAME_S * 1000)


class ActivityMissing(RuntimeError):
    """The detector is not installed; the message says how to mend it."""


class VoiceActivity:
    """Turns the detector's opinion of each frame into beginnings and ends.

    heard_ms: of the time line so far.
    """

    def __init__(self, heard_ms: int = 0) -> None:
        try:
            detector = importlib.import_module("webrtcvad")
        except ImportError:
            raise ActivityMissing(
                'speech() needs a detector: pip install "voicerelay[vad]"'
            ) from None
        self._detector: Any = detector.Vad(AGGRESSIVENESS)
        self._heard_ms = heard_ms
        self._differing = 0  # frames in a row that speak against `speaking`
        self.speaking = False

    def feed(self, frame: Pcm, rate: int) -> Speech | None:
        """One frame of 20 ms; a beginning or an end that it decides, dated where it was."""
        if rate not in DETECTOR_RATES:
            frame, rate = np.repeat(frame, DETECTOR_RATES[-1] // rate), DETECTOR_RATES[-1]
        self._heard_ms += FRAME_MS
        voiced: bool = self._detector.is_speech(frame.tobytes(), rate)
        if voiced == self.speaking:
            self._differing = 0
            return None
        self._differing += 1
        if self._differing < (STOP_FRAMES if self.speaking else START_FRAMES):
            return None
        at_ms = self._heard_ms - self._differing * FRAME_MS
        self.speaking, self._differing = voiced, 0
        return Speech(voiced, at_ms)
