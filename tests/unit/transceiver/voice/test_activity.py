"""When a caller speaks: decided late enough to be sure, and dated where it was."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.voices import speech
from voicerelay.transceiver.agent import Speech
from voicerelay.transceiver.voice.activity import (
    START_FRAMES,
    STOP_FRAMES,
    ActivityMissing,
    VoiceActivity,
)
from voicerelay.transceiver.voice.opus import FRAME_S, RATES, Pcm
from voicerelay.transceiver.voice.pcm import Resampler

RATE = 16_000
SENTENCE = "The quick brown fox jumps over the lazy dog, and then it runs away."
ESPEAK = shutil.which("espeak-ng")


class Opinions:
    """A detector that says what it was told to say."""

    def __init__(self, opinions: str) -> None:
        self.opinions = iter(opinions)
        self.asked: list[tuple[int, int]] = []

    def is_speech(self, pcm: bytes, rate: int) -> bool:
        self.asked.append((len(pcm) // 2, rate))
        return next(self.opinions) == "v"


def changes(opinions: str, heard_ms: int = 0) -> list[tuple[int, Speech]]:
    """Number of the frame that decided, and what it decided; `v` is a voiced frame."""
    activity = VoiceActivity(heard_ms)
    activity._detector = Opinions(opinions)
    fed = (activity.feed(np.zeros(320, np.int16), RATE) for _ in opinions)
    return [(number, change) for number, change in enumerate(fed) if change is not None]


def listened(pcm: Pcm, rate: int = RATE) -> list[Speech]:
    activity, size = VoiceActivity(), round(rate * FRAME_S)
    fed = (activity.feed(pcm[at : at + size], rate) for at in range(0, len(pcm) - size + 1, size))
    return [change for change in fed if change is not None]


def noise(seconds: float, level: float) -> Pcm:
    hiss = np.random.default_rng(1).normal(0, level, round(seconds * RATE))
    return hiss.astype(np.int16)


def test_speech_begins_after_a_few_voiced_frames_and_is_dated_to_the_first() -> None:
    assert changes("..." + "v" * START_FRAMES) == [(2 + START_FRAMES, Speech(True, 60))]


def test_a_click_is_no_speech() -> None:
    assert changes(("v" * (START_FRAMES - 1) + ".") * 20) == []


def test_speech_ends_after_half_a_second_and_is_dated_to_the_last_voiced_frame() -> None:
    found = changes("v" * 10 + "." * STOP_FRAMES)

    assert found[1:] == [(9 + STOP_FRAMES, Speech(False, 200))]
    assert STOP_FRAMES * FRAME_S == 0.5


def test_a_pause_between_words_does_not_end_it() -> None:
    words = ("v" * 10 + "." * (STOP_FRAMES - 1)) * 5

    assert [change.started for _, change in changes(words)] == [True]


def test_the_time_line_goes_on_from_what_was_heard_before() -> None:
    assert changes("v" * START_FRAMES, heard_ms=1000)[0][1] == Speech(True, 1000)


@pytest.mark.parametrize("rate", RATES)
def test_the_detector_is_asked_at_a_rate_it_knows(rate: int) -> None:
    activity, detector = VoiceActivity(), Opinions("v")
    activity._detector = detector

    activity.feed(np.zeros(round(rate * FRAME_S), np.int16), rate)

    samples, asked = detector.asked[0]
    assert asked in (8_000, 16_000, 32_000, 48_000)
    assert samples == asked * FRAME_S


@pytest.mark.parametrize("level", [0.0, 20.0, 100.0, 400.0])
def test_silence_and_noise_are_no_speech(level: float) -> None:
    assert listened(noise(3, level)) == []


@pytest.mark.parametrize("rate", RATES)
def test_something_like_a_voice_is_heard_at_every_rate(rate: int) -> None:
    silence = np.zeros(rate, np.int16)

    found = listened(np.concatenate([silence, speech(2, rate), silence]), rate)

    assert [change.started for change in found] == [True, False]
    assert found[0].at_ms == pytest.approx(1000, abs=100)
    assert found[1].at_ms == pytest.approx(3000, abs=300)


@pytest.mark.skipif(ESPEAK is None, reason="needs espeak-ng")
def test_a_sentence_between_silences_begins_and_ends_once(tmp_path: Path) -> None:
    # given a sentence, with a second of silence on both sides
    assert ESPEAK is not None
    said = tmp_path / "said.wav"
    subprocess.run([ESPEAK, "-w", str(said), SENTENCE], check=True, timeout=30)
    voice = np.frombuffer(said.read_bytes()[44:], "<i2")
    voice = Resampler(22_050, RATE).feed(voice, last=True)
    second = np.zeros(RATE, np.int16)

    # when it is listened to, in a room that hums a little
    pcm = np.concatenate([second, voice // 2, second])
    found = listened(pcm + noise(len(pcm) / RATE, 50))

    # then it is one stretch of speech of its length
    assert [change.started for change in found] == [True, False]
    assert found[0].at_ms == pytest.approx(1000, abs=200)
    assert found[1].at_ms == pytest.approx(1000 + len(voice) * 1000 / RATE, abs=400)


def test_without_the_detector_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "webrtcvad", None)

    with pytest.raises(RuntimeError, match=r"voicerelay\[vad\]") as raised:
        VoiceActivity()

    assert raised.type is ActivityMissing
