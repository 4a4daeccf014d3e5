"""What is said in the bench: one known signal, like speech to a codec, and how alike it what comes back is."""

from functools import cache

import numpy as np

from tests.support import voices
from voicerelay.transceiver.opus import FRAME_S, Pcm

PACKET_S = FRAME_S
SIGNAL_S = 12.0  # then it begins again
RATE = 24_000  # of our agents and of the floor
CLIENT_RATE = 48_000  # as browsers encode


@cache
def speech(rate: int = RATE) -> Pcm:
    return voices.speech(SIGNAL_S, rate)


def looped(start: int, samples: int, rate: int = RATE) -> Pcm:
    """So many samples of the endless signal from `start` on."""
    signal = speech(rate)
    start %= len(signal)
    if start + samples <= len(signal):
        return signal[start : start + samples]
    return np.concatenate((signal[start:], signal[: start + samples - len(signal)]))


@cache
def payloads() -> list[bytes]:
    """One round of the signal as a browser would send it, with FEC."""
    return voices.payloads(speech(CLIENT_RATE), CLIENT_RATE, fec=True)


def align(pcm: Pcm, rate: int = RATE) -> tuple[int, float]:
    """Where in the signal a piece of it is (its first sample), and the correlation there, 0..1."""
    signal = speech(rate).astype(float)
    piece = pcm.astype(float)
    size = len(signal)
    spectrum = np.fft.rfft(signal) * np.conj(np.fft.rfft(piece, size))
    found = np.fft.irfft(spectrum, size)
    at = int(found.argmax())
    there = looped(at, len(piece), rate).astype(float)
    scale = float(np.sqrt((there @ there) * (piece @ piece)))
    return at, float(found[at] / scale) if scale else 0.0


def likeness_to(frames: list[Pcm]) -> float:
    """The median correlation of half seconds with the signal, wherever in it they are."""
    pcm = np.concatenate(frames)
    half = RATE // 2
    starts = range(half, len(pcm) - half, half)
    return float(np.median([align(pcm[start : start + half])[1] for start in starts]))
