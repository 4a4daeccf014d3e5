"""What callers say: a voice made once, encoded once, with marks in it that can be found again. Pure."""

from functools import cache
from typing import Final

import numpy as np

from voicerelay.cli.loadtest.talk import PACKET_S
from voicerelay.transceiver.voice.opus import Encoder, Pcm

RATE: Final = 48_000  # as browsers encode
SIGNAL_S: Final = 12.0  # then it begins again
MARK_PERIOD_S: Final = 2.0  # so a delay is told as long as it is below
MARK_S: Final = 0.06
QUIET_S: Final = 0.04  # around a mark
MARK_FROM_HZ, MARK_TO_HZ = 500, 3300
FEC_FOR_LOSS_PERCENT = 10
SILENCE: Final = b"\xf8\xff\xfe"  # Opus, 20 ms
PACKETS_A_ROUND: Final = round(SIGNAL_S / PACKET_S)
_MARK_EVERY = round(MARK_PERIOD_S / PACKET_S)


def mark(rate: int) -> Pcm:
    """A chirp: unlike speech, and alike to itself at one moment only."""
    moments = np.arange(round(MARK_S * rate)) / rate
    slope = (MARK_TO_HZ - MARK_FROM_HZ) / MARK_S
    wave = np.sin(2 * np.pi * (MARK_FROM_HZ * moments + slope / 2 * moments**2))
    made: Pcm = (14_000 * wave * np.hanning(len(moments)) ** 0.25).astype(np.int16)
    return made


def is_mark(packet: int) -> bool:
    """Whether a mark begins with this packet of the signal."""
    return packet % _MARK_EVERY == _MARK_EVERY // 2


@cache
def payloads() -> tuple[bytes, ...]:
    """One round of the signal, as Opus packets of 20 ms with in-band FEC."""
    pcm = voice().copy()
    signal, quiet = mark(RATE), round(QUIET_S * RATE)
    for packet in filter(is_mark, range(PACKETS_A_ROUND)):
        start = round(packet * PACKET_S * RATE)
        pcm[start - quiet : start + len(signal) + quiet] = 0
        pcm[start : start + len(signal)] = signal
    encoder = Encoder(RATE)
    encoder.set_fec(FEC_FOR_LOSS_PERCENT)
    size = encoder.samples
    return tuple(encoder.encode(pcm[at : at + size]) for at in range(0, len(pcm), size))


@cache
def voice() -> Pcm:
    """To a codec like speech: harmonics of a gliding pitch under a moving formant, in syllables."""
    moments = np.arange(round(SIGNAL_S * RATE)) / RATE
    pitch = 140 + 35 * np.sin(2 * np.pi * 0.9 * moments) + 20 * np.sin(2 * np.pi * 2.7 * moments)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    formant = 800 + 450 * np.sin(2 * np.pi * 1.9 * moments)
    wave = np.zeros(len(moments))
    for harmonic in range(1, 16):
        weight = np.exp(-(((harmonic * pitch - formant) / 450) ** 2)) + 0.25 / harmonic
        wave += weight * np.sin(harmonic * phase)
    syllables = 0.5 - 0.45 * np.cos(2 * np.pi * 3.5 * moments)
    made: Pcm = (wave * syllables * 15_000 / np.abs(wave).max()).astype(np.int16)
    return made
