"""What is said in the bench: one known signal, like speech to a codec, and how alike it what comes back is."""

from functools import cache

import numpy as np

from tests.support import voices
from voicerelay.transceiver.voice.opus import FRAME_S, Pcm

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


def align(pcm: Pcm, near: int, span: int, rate: int = RATE) -> tuple[int, float]:
    """Where in the endless signal a piece of it is, and the correlation there, 0..1.

    Looked for from `near` on, `span` samples far: like speech, the signal resembles itself elsewhere.
    """
    signal = looped(near, span + len(pcm), rate).astype(float)
    piece = pcm.astype(float)
    size = 1 << (len(signal) + len(piece)).bit_length()
    spectrum = np.fft.rfft(signal, size) * np.conj(np.fft.rfft(piece, size))
    at = int(np.fft.irfft(spectrum, size)[:span].argmax())
    there = signal[at : at + len(piece)]
    scale = float(np.sqrt((there @ there) * (piece @ piece)))
    return near + at, float(there @ piece) / scale if scale else 0.0


def likeness_to(frames: list[Pcm]) -> float:
    """The median correlation of half seconds with the signal, wherever in it they are."""
    pcm = np.concatenate(frames)
    half = RATE // 2
    starts = range(half, len(pcm) - half, half)
    whole = len(speech())
    return float(np.median([align(pcm[s : s + half], 0, whole)[1] for s in starts]))
