"""A voice to send, and an ear that hears it: for tests that judge what is heard, in virtual time."""

from functools import cache

import numpy as np

from tests.support.impair import Timed
from voicerelay.transceiver.voice.inbound import CLOCK_RATE_HZ, Inbound
from voicerelay.transceiver.voice.opus import FRAME_S, Decoder, Encoder, Pcm
from voicerelay.transceiver.voice.rtp import RtpPacket

SSRC, OPUS = 0x0B0B0B0B, 111
RATE = 16_000  # of the numbered packets


def speech(seconds: float, rate: int) -> Pcm:
    """Like speech to a codec: a pitch that glides, a formant, four syllables a second."""
    moments = np.arange(round(seconds * rate)) / rate
    pitch = 150 + 40 * np.sin(2 * np.pi * 1.3 * moments) + 25 * np.sin(2 * np.pi * 3.1 * moments)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    formant = 900 + 500 * np.sin(2 * np.pi * 1.7 * moments)
    voice = np.zeros(len(moments))
    for harmonic in range(1, 20):
        weight = np.exp(-(((harmonic * pitch - formant) / 500) ** 2)) + 0.3 / harmonic
        voice += weight * np.sin(harmonic * phase)
    syllables = 0.55 - 0.45 * np.cos(2 * np.pi * 4 * moments)
    loud: Pcm = (voice * syllables * 20_000 / np.abs(voice).max()).astype(np.int16)
    return loud


def payloads(pcm: Pcm, rate: int, *, fec: bool = False, frame_s: float = FRAME_S) -> list[bytes]:
    """Opus packets of `frame_s` each; an incomplete last one is left out."""
    encoder = Encoder(rate)
    encoder.samples = round(rate * frame_s)
    encoder.set_fec(20 if fec else 0)
    starts = range(0, len(pcm) - encoder.samples + 1, encoder.samples)
    return [encoder.encode(pcm[start : start + encoder.samples]) for start in starts]


def join(packets: list[bytes]) -> bytes:
    """One packet of several with one frame each and the same TOC (RFC 6716 §3.2.5, code 3, VBR)."""
    assert len({packet[0] for packet in packets}) == 1
    frames = [packet[1:] for packet in packets]
    lengths = b"".join(
        bytes([len(f)]) if len(f) < 252 else bytes([252 + len(f) % 4, (len(f) - 252) // 4])
        for f in frames[:-1]
    )
    return bytes([packets[0][0] | 3, 0x80 | len(frames)]) + lengths + b"".join(frames)


def stream(
    spoken: list[bytes],
    *,
    sequence: int = 0,
    timestamp: int = 0,
    ssrc: int = SSRC,
    frame_s: float = FRAME_S,
    start: float = 0.0,
) -> list[Timed]:
    """Packets with the time they are sent at."""
    ticks = round(frame_s * CLOCK_RATE_HZ)
    return [
        (
            start + index * frame_s,
            RtpPacket(
                index == 0,
                OPUS,
                (sequence + index) & 0xFFFF,
                (timestamp + index * ticks) & 0xFFFFFFFF,
                ssrc,
                payload,
            ),
        )
        for index, payload in enumerate(spoken)
    ]


def decoded(spoken: list[bytes], rate: int) -> list[Pcm]:
    """Frames of a stream from which nothing is missing."""
    decoder = Decoder(rate)
    pcm = np.concatenate([decoder.decode(payload) for payload in spoken])
    size = round(rate * FRAME_S)
    return [pcm[start : start + size] for start in range(0, len(pcm) - size + 1, size)]


class Ear:
    """An Inbound with a clock that goes as fast as it likes; keeps each frame and when it came."""

    def __init__(self, rate: int) -> None:
        self.inbound = Inbound(rate, self._hear)
        self.frames: list[Pcm] = []
        self.times: list[float] = []
        self._now = 0.0

    def take(self, *arriving: Timed) -> None:
        """Give it packets at their times, and let it expire when it wants to."""
        for at, packet in arriving:
            self.pass_time(at)
            self.inbound.receive(packet, at)

    def pass_time(self, until: float) -> None:
        while (deadline := self.inbound.deadline) is not None and deadline <= until:
            self._now = max(self._now, deadline)
            self.inbound.expire(self._now)
        self._now = max(self._now, until)

    def _hear(self, frame: Pcm) -> None:
        assert len(frame) == round(self.inbound.rate * FRAME_S)
        assert frame.dtype == np.int16
        self.frames.append(frame)
        self.times.append(self._now)


def likeness(one: Pcm, other: Pcm) -> float:
    """Correlation, -1..1; two silences are alike."""
    a, b = one.astype(float), other.astype(float)
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else float(not a.any() and not b.any())


@cache
def spoken() -> list[bytes]:
    """A second of voice with FEC."""
    return payloads(speech(1.0, RATE), RATE, fec=True)


@cache
def clean() -> list[Pcm]:
    """Its frames, when nothing is missing."""
    return decoded(spoken(), RATE)


def numbered(
    number: int, *, late: int = 0, payload: bytes | None = None, ssrc: int = SSRC
) -> RtpPacket:
    """The packet of this number; its timestamp `late` ticks later than that."""
    body = spoken()[number % len(spoken())] if payload is None else payload
    timestamp = (number * round(FRAME_S * CLOCK_RATE_HZ) + late) & 0xFFFFFFFF
    return RtpPacket(False, OPUS, number & 0xFFFF, timestamp, ssrc, body)


def heard(*numbers: int, now: float = 0.0) -> Ear:
    """An ear that got these packets, all at once."""
    ear = Ear(RATE)
    ear.take(*((now, numbered(number)) for number in numbers))
    return ear
