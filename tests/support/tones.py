"""Test tones and what became of them: a call is judged by what is heard, not by its states."""

import itertools
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

RATE = 48_000
STEPS_HZ = (500, 800, 1100, 1400)
STEP_S = 0.5
SILENCE_LEVEL = 0.01  # RMS, full scale 1; Firefox's fake microphone has 0.07
SAMPLE_MS = 50


class Sample(NamedTuple):
    """What the page heard at one moment: `t` in ms (performance.now()), `level` as RMS 0..1."""

    t: float
    hz: float
    level: float


# Installs a recorder on window.voicerelay.remoteStream, in place of an earlier one; samples gather in
# window.__tone.
# A muted audio element plays the stream too: Chromium pulls remote audio only then.
# The level is taken from the newest 21 ms, so that an edge is seen when it happens; the
# frequency needs the longer window for its resolution.
_RECORD_JS = """
(async () => {
  clearInterval(window.__toneKeep?.timer);
  const stream = window.voicerelay.remoteStream;
  const player = new Audio();
  player.muted = true;
  player.srcObject = stream;
  player.play().catch(() => {});
  const context = new AudioContext();
  await context.resume();
  const analyser = context.createAnalyser();
  analyser.fftSize = 4096;
  analyser.smoothingTimeConstant = 0;
  const source = context.createMediaStreamSource(stream);
  source.connect(analyser);
  const power = new Float32Array(analyser.frequencyBinCount);
  const wave = new Float32Array(analyser.fftSize);
  const newest = wave.subarray(wave.length - 1024);
  window.__tone = [];
  window.__toneKeep = {player, context, analyser, source};  // or the garbage collector ends it
  window.__toneKeep.timer = setInterval(() => {
    analyser.getFloatFrequencyData(power);
    analyser.getFloatTimeDomainData(wave);
    let top = 2;
    for (let i = 2; i < power.length - 1; i++) if (power[i] > power[top]) top = i;
    const [a, b, c] = [power[top - 1], power[top], power[top + 1]];
    const bend = a - 2 * b + c;
    const offset = Number.isFinite(bend) && bend ? (a - c) / (2 * bend) : 0;
    let sum = 0;
    for (const x of newest) sum += x * x;
    window.__tone.push({
      t: performance.now(),
      hz: (top + offset) * context.sampleRate / analyser.fftSize,
      level: Math.sqrt(sum / newest.length),
    });
  }, SAMPLE_MS);
  return context.sampleRate;
})()
"""
RECORD_JS = _RECORD_JS.replace("SAMPLE_MS", str(SAMPLE_MS))

# How much sound the browser has made up so far for packets that were missing or late, in ms.
# Both browsers go on with a steady tone for about half a second: a recording of one shows no hole
# when the server was stopped for 400 ms, but this figure rises by 200 (and more, the less the
# jitter buffer held).
CONCEALED_MS_JS = """
(async () => {
  const stats = await window.voicerelay.pc.getStats();
  const voice = [...stats.values()].find(s => s.type === 'inbound-rtp' && s.kind === 'audio');
  return voice.concealedSamples / 48;  // Opus counts at 48 kHz
})()
"""


def samples(recorded: Sequence[dict[str, float]]) -> list[Sample]:
    """The page's window.__tone as samples."""
    return [Sample(s["t"], s["hz"], s["level"]) for s in recorded]


def write_wav(
    path: Path,
    tones_hz: Sequence[float] = STEPS_HZ,
    *,
    step_s: float = STEP_S,
    repeat: int = 1,
    level: float = 0.5,
) -> Path:
    """Write the tones one after the other, `step_s` each, as 48 kHz mono 16 bit; 0 Hz is silence.

    Chromium loops the file, seamlessly if every step holds whole periods.
    """
    moments = np.arange(round(step_s * RATE)) / RATE
    steps = [np.sin(2 * np.pi * hz * moments) for hz in tones_hz]
    pcm = np.tile(np.concatenate(steps) * level * 32767, repeat).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(pcm.tobytes())
    return path


def fraction_near(heard: Sequence[Sample], hz: float, tolerance_hz: float = 15) -> float:
    """Share of the samples, 0..1, that are audible and within `tolerance_hz` of `hz`."""
    if not heard:
        return 0.0
    near = sum(s.level >= SILENCE_LEVEL and abs(s.hz - hz) <= tolerance_hz for s in heard)
    return near / len(heard)


def longest_gap_ms(heard: Sequence[Sample]) -> float:
    """The longest time without sound; also a time in which the page took no samples at all.

    Short holes are covered up by the browser: see CONCEALED_MS_JS.
    """
    loud = [s.t for s in heard if s.level >= SILENCE_LEVEL]
    if not loud:
        return float("inf")
    marks = [heard[0].t, *loud, heard[-1].t]
    return max(b - a for a, b in itertools.pairwise(marks))


def edges(heard: Sequence[Sample]) -> list[tuple[float, bool]]:
    """When sound came and went: (t in ms, True for audible), the first state included."""
    found: list[tuple[float, bool]] = []
    for sample in heard:
        audible = sample.level >= SILENCE_LEVEL
        if not found or found[-1][1] != audible:
            found.append((sample.t, audible))
    return found


def steps(
    heard: Sequence[Sample], tones_hz: Sequence[float] = STEPS_HZ, tolerance_hz: float = 40
) -> list[tuple[float, float]]:
    """When each tone began: (t in ms, nominal Hz); samples between two tones are passed over."""
    found: list[tuple[float, float]] = []
    for sample in heard:
        nearest = min(tones_hz, key=lambda hz: abs(hz - sample.hz))
        if sample.level < SILENCE_LEVEL or abs(nearest - sample.hz) > tolerance_hz:
            continue
        if not found or found[-1][1] != nearest:
            found.append((sample.t, nearest))
    return found


def dominant_hz(pcm: npt.NDArray[np.int16], rate: int = RATE) -> float:
    """The strongest frequency in mono `pcm`, interpolated between bins; 0.0 for silence."""
    if len(pcm) < 4 or not (pcm - pcm.mean()).any():
        return 0.0
    power = np.abs(np.fft.rfft((pcm - pcm.mean()) * np.hanning(len(pcm))))
    top = int(power[1:-1].argmax()) + 1
    # Bins without any energy would have no logarithm.
    a, b, c = np.log(power[top - 1 : top + 2] + 1e-9)
    return float((top + (a - c) / (2 * (a - 2 * b + c))) * rate / len(pcm))
