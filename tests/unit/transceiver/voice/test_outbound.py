"""The send half: what is written is heard, is bounded, can be interrupted, and adapts to loss and load."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicerelay.transceiver.voice import opus
from voicerelay.transceiver.voice.lateness import MAX_LOAD_LEVEL
from voicerelay.transceiver.voice.opus import FRAME_S, Pcm
from voicerelay.transceiver.voice.outbound import (
    COMPLEXITY_STEPS,
    ENCODER_IDLE_S,
    FEC_MAX_PERCENT,
    FEC_MEMORY_REPORTS,
    FEC_OFF_LOSS,
    FEC_ON_LOSS,
    OUTPUT_BUFFER_S,
    UTTERANCE_GAP_S,
    WAKE_ROOM_S,
    LossMemory,
    Outbound,
)

BUFFER_FRAMES = round(OUTPUT_BUFFER_S / FRAME_S)
HEARD_RATE = 48_000


class Mouth:
    """An Outbound with a clock that goes on by a frame with each one asked for."""

    def __init__(self, dtx: bool = False) -> None:
        self.now = 100.0
        self.changes = 0
        self.out = Outbound(self._changed, dtx)

    def _changed(self) -> None:
        self.changes += 1

    def write(self, pcm: Pcm | bytes, rate: int) -> int:
        return self.out.write(pcm, rate, self.now)

    def frame(self, load: int = 0) -> bytes | None:
        payload = self.out.next_frame(self.now, load)
        self.now += FRAME_S
        return payload

    def say_all(self) -> list[bytes]:
        """Until it is silent."""
        payloads = []
        while (payload := self.frame()) is not None:
            payloads.append(payload)
        return payloads


def chirp(rate: int, seconds: float = 0.8) -> Pcm:
    """300 Hz to 2.5 kHz, within every bandwidth of Opus."""
    at = np.arange(round(rate * seconds)) / rate
    return np.asarray(9000 * np.sin(2 * np.pi * (300 + 1100 * at / seconds) * at), np.int16)


def heard(payloads: list[bytes]) -> Pcm:
    decoder = opus.Decoder(HEARD_RATE)
    return np.concatenate([decoder.decode(p) for p in payloads if p])


def likeness(one: Pcm, other: Pcm) -> float:
    """The highest normalized correlation over all delays."""
    size = 1 << (len(one) + len(other)).bit_length()
    product = np.fft.rfft(other, size) * np.conj(np.fft.rfft(one, size))
    energies = np.linalg.norm(one.astype(float)) * np.linalg.norm(other.astype(float))
    return float(np.fft.irfft(product, size).max() / energies)


# ---- content -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("chunk_s", [0.8, 0.02, 0.0071])
def test_what_is_written_is_heard(rate: int, chunk_s: float) -> None:
    # given a chirp that an agent writes in chunks
    mouth, pcm, chunk = Mouth(), chirp(rate), round(rate * chunk_s)

    # when all of it is sent
    for start in range(0, len(pcm), chunk):
        part = pcm[start : start + chunk]
        assert mouth.write(part.tobytes(), rate) == len(part)
    payloads = [p for p in mouth.say_all() if p]

    # then it takes its time, and comes out as it went in
    assert len(payloads) == pytest.approx(0.8 / FRAME_S, abs=1)
    assert mouth.out.played_ms == pytest.approx(800, abs=1)
    assert likeness(chirp(HEARD_RATE), heard(payloads)) > 0.95


def test_what_was_sent_adds_up_over_utterances_interruptions_and_rates() -> None:
    mouth = Mouth()
    total = 0
    for rate in (16_000, 24_000, 24_000):
        mouth.write(chirp(rate, 0.5), rate)
        for _ in range(10):
            mouth.frame()
        total += mouth.out.interrupt()
    mouth.write(chirp(24_000, 0.1), 24_000)
    mouth.say_all()

    assert mouth.out.total_played_ms == total + 100 == 700
    mouth.now += ENCODER_IDLE_S
    mouth.out.sweep(mouth.now)
    assert mouth.out.total_played_ms == 700


def test_a_change_of_rate_within_an_utterance_is_heard_as_one() -> None:
    mouth, size = Mouth(), HEARD_RATE * 4 // 10
    first, second = chirp(24_000)[: 24_000 * 4 // 10], chirp(44_100)[44_100 * 4 // 10 :]

    mouth.write(first, 24_000)
    mouth.write(second, 44_100)
    payloads = [p for p in mouth.say_all() if p]

    assert len(payloads) == 40
    assert likeness(chirp(HEARD_RATE)[:size], heard(payloads[:20])) > 0.95
    assert likeness(chirp(HEARD_RATE), heard(payloads)) > 0.95


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from([8_000, 16_000, 22_050, 44_100, 48_000]),
    st.lists(st.integers(1, 3000), min_size=1, max_size=12),
)
def test_all_of_it_is_sent_whatever_the_chunks(rate: int, sizes: list[int]) -> None:
    mouth, total = Mouth(), 0

    for size in sizes:
        pcm, at = np.zeros(size, np.int16), 0
        while at < size:
            at += mouth.write(pcm[at:], rate)
            mouth.frame()
        total += size
    mouth.say_all()

    assert mouth.out.dry
    # a resampler may round once each time the output runs dry
    assert mouth.out.played_ms == pytest.approx(total * 1000 / rate, abs=1 + 0.1 * len(sizes))


def test_the_encoder_runs_at_the_rate_of_the_utterance_if_opus_has_it() -> None:
    found = []
    for rate in (8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000):
        mouth = Mouth()
        mouth.write(b"\0\0" * 10, rate)
        found.append(mouth.out._encoder.rate if mouth.out._encoder else None)

    assert found == [8_000, 12_000, 16_000, 24_000, 24_000, 48_000, 48_000, 48_000, 48_000]


@pytest.mark.parametrize(("pcm", "rate"), [(b"\0", 8_000), (b"\0\0", 7_999), (b"\0\0", 96_001)])
def test_what_is_no_pcm_is_refused_and_leaves_nothing(pcm: bytes, rate: int) -> None:
    mouth = Mouth()

    with pytest.raises(ValueError, match=r"rate|bytes"):
        mouth.write(pcm, rate)

    assert mouth.frame() is None


# ---- bounds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_it_takes_a_second_and_no_more(rate: int) -> None:
    mouth = Mouth()

    taken = mouth.write(np.zeros(3 * rate, np.int16), rate)

    assert taken == pytest.approx(OUTPUT_BUFFER_S * rate, abs=1)
    assert mouth.write(np.zeros(100, np.int16), rate) == 0
    assert len([p for p in mouth.say_all() if p]) == BUFFER_FRAMES


def test_a_refused_writer_is_woken_once_there_is_room_worth_it() -> None:
    # given a writer that was refused
    mouth = Mouth()
    mouth.write(np.zeros(16_001, np.int16), 16_000)

    # when frames leave one by one
    changes = []
    for _ in range(round(WAKE_ROOM_S / FRAME_S) + 5):
        mouth.frame()
        changes.append(mouth.changes)

    # then it is woken once
    assert changes == [0] * (round(WAKE_ROOM_S / FRAME_S) - 1) + [1] * 6
    assert mouth.write(np.zeros(16_000, np.int16), 16_000) > 0


def test_a_writer_that_was_not_refused_is_left_in_peace_until_all_is_sent() -> None:
    mouth = Mouth()
    mouth.write(np.zeros(16_000, np.int16), 16_000)

    for _ in range(BUFFER_FRAMES):
        assert mouth.frame()

    assert (mouth.changes, mouth.out.dry) == (0, True)
    assert mouth.frame() is None
    assert mouth.changes == 1


# ---- running dry ---------------------------------------------------------------------------------


def test_before_the_first_write_it_is_silent_and_holds_no_encoder() -> None:
    mouth = Mouth()

    assert mouth.frame() is None
    assert (mouth.out.dry, mouth.out.played_ms, mouth.out._encoder) == (True, 0, None)


def test_a_partial_frame_waits_for_its_rest() -> None:
    # given half a frame that was just written
    mouth = Mouth()
    mouth.write(np.ones(160, np.int16), 16_000)
    assert mouth.frame() == b""

    # when its other half comes
    mouth.write(np.ones(160, np.int16), 16_000)

    # then they are one frame without padding
    assert mouth.frame()
    assert mouth.out.played_ms == 20
    assert mouth.frame() is None


def test_a_tail_to_which_nothing_came_is_sent_with_padding_that_does_not_count() -> None:
    mouth = Mouth()
    mouth.write(np.ones(320 + 80, np.int16), 16_000)

    payloads = mouth.say_all()

    assert (len(payloads), all(payloads)) == (2, True)
    assert mouth.out.played_ms == 25


def test_the_last_milliseconds_inside_the_resampler_are_sent() -> None:
    """soxr holds back up to 40 ms; speech must not be cut off at its end."""
    mouth = Mouth()
    mouth.write(chirp(22_050, 0.1), 22_050)

    payloads = [p for p in mouth.say_all() if p]

    assert len(payloads) == 5
    loud = np.abs(heard(payloads)[-HEARD_RATE // 100 :].astype(int))
    assert loud.max() > 4000


# ---- utterances ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [0, 1, 17, 49])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_an_interrupt_says_to_the_frame_what_was_sent(sent: int, rate: int) -> None:
    # given a second of speech
    mouth = Mouth()
    mouth.write(np.zeros(rate, np.int16), rate)
    for _ in range(sent):
        assert mouth.frame()

    # when it is interrupted
    played = mouth.out.interrupt()

    # then that much was sent, the rest never will be, and who waited is told
    assert played == sent * 20
    assert mouth.out.interrupted_ms == pytest.approx(1000 - played, abs=1)
    assert (mouth.changes, mouth.out.interrupts, mouth.out.dry) == (1, 1, True)
    assert mouth.frame() is None


def test_an_interrupt_counts_its_own_utterance_and_only_once() -> None:
    mouth = Mouth()
    mouth.write(np.zeros(16_000, np.int16), 16_000)
    mouth.frame()
    mouth.out.interrupt()

    assert mouth.out.interrupt() == 0
    mouth.write(np.zeros(16_000, np.int16), 16_000)
    mouth.frame()
    mouth.frame()
    assert mouth.out.interrupt() == 40


def test_nothing_of_the_interrupted_is_heard_in_the_next_utterance() -> None:
    # given a loud sound that is cut within the resampler
    mouth = Mouth()
    mouth.write(chirp(44_100), 44_100)
    for _ in range(7):
        mouth.frame()
    mouth.out.interrupt()

    # when silence is played
    mouth.write(np.zeros(4410, np.int16), 44_100)
    frames = []
    while mouth.out._buffer is not None and (tail := mouth.out._buffer.take_tail()) is not None:
        frames.append(tail[0].copy())

    # then silence is what the encoder gets, but for soxr's dither
    assert len(frames) == 5
    assert np.abs(np.concatenate(frames)).max() <= 1


def test_a_listener_without_further_packets_hears_the_interrupted_fade() -> None:
    """Why a plain cut is enough: concealment fades out by itself, within 100 ms."""
    mouth, decoder = Mouth(), opus.Decoder(HEARD_RATE)
    mouth.write(chirp(48_000), 48_000)
    for _ in range(20):
        payload = mouth.frame()
        assert payload
        before = decoder.decode(payload)
    mouth.out.interrupt()

    after = [decoder.conceal(len(before)) for _ in range(5)]

    loudness = [float(np.sqrt(np.mean(pcm.astype(float) ** 2))) for pcm in (before, *after)]
    assert loudness[-1] < loudness[0] / 4
    assert abs(int(after[0][0]) - int(before[-1])) < 4000


@pytest.mark.parametrize(
    ("gap_s", "drained", "played_ms"),
    [(0.5, False, 120), (UTTERANCE_GAP_S, False, 20), (0.5, True, 20)],
    ids=["pause", "gap", "drained"],
)
def test_where_an_utterance_begins(gap_s: float, drained: bool, played_ms: int) -> None:
    # given 100 ms that were said
    mouth = Mouth()
    mouth.write(np.zeros(1600, np.int16), 16_000)
    mouth.say_all()
    if drained:
        mouth.out.end_utterance()
    assert mouth.out.played_ms == 100  # readable until another begins

    # when 20 ms follow
    mouth.now += gap_s
    mouth.write(np.zeros(320, np.int16), 16_000)
    mouth.say_all()

    assert mouth.out.interrupt() == played_ms


def test_an_utterance_is_not_ended_while_it_is_still_said() -> None:
    mouth = Mouth()
    mouth.write(np.zeros(1600, np.int16), 16_000)
    mouth.frame()

    mouth.out.end_utterance()
    mouth.write(np.zeros(320, np.int16), 16_000)
    mouth.say_all()

    assert mouth.out.interrupt() == 120


@pytest.mark.parametrize("interrupted", [False, True])
def test_after_a_long_silence_a_call_holds_no_encoder(interrupted: bool) -> None:
    # given a call that has spoken
    mouth = Mouth()
    mouth.write(np.zeros(1600, np.int16), 16_000)
    mouth.out.sweep(mouth.now + 2 * ENCODER_IDLE_S)
    mouth.frame()
    assert mouth.out._encoder is not None
    if interrupted:
        mouth.out.interrupt()
    else:
        mouth.say_all()

    # when it is silent for long
    mouth.out.sweep(mouth.now)
    mouth.out.sweep(mouth.now + ENCODER_IDLE_S - 0.1)
    assert mouth.out._encoder is not None
    mouth.out.sweep(mouth.now + ENCODER_IDLE_S + 0.1)

    # then its memory is free, and it can speak again
    held = [mouth.out._encoder, mouth.out._buffer]
    assert held == [None, None]
    assert mouth.frame() is None
    mouth.write(np.zeros(960, np.int16), 48_000)
    assert mouth.frame()
    assert mouth.out.played_ms == 20


# ---- loss, load, DTX -----------------------------------------------------------------------------


def test_fec_comes_with_the_first_bad_report_and_goes_after_clean_ones() -> None:
    memory, found = LossMemory(), []

    for fraction in (0.0, FEC_ON_LOSS - 0.001, FEC_ON_LOSS, *[0.0] * FEC_MEMORY_REPORTS):
        memory.reported(fraction)
        found.append(memory.percent)

    assert found == [0, 0, *[5] * FEC_MEMORY_REPORTS, 0]


def test_between_its_two_limits_fec_stays_as_it_is() -> None:
    memory = LossMemory()
    between = (FEC_ON_LOSS + FEC_OFF_LOSS) / 2

    found = []
    for fraction in (between, FEC_ON_LOSS, *[between] * 10, *[0.0] * FEC_MEMORY_REPORTS):
        memory.reported(fraction)
        found.append(memory.percent > 0)

    assert found == [False] + [True] * 15 + [False]


@pytest.mark.parametrize(
    ("fraction", "percent"), [(0.02, 5), (0.05, 5), (0.051, 10), (0.2, 20), (1.0, FEC_MAX_PERCENT)]
)
def test_the_encoder_prepares_for_the_worst_of_the_last_reports(
    fraction: float, percent: int
) -> None:
    memory = LossMemory()

    memory.reported(fraction)
    memory.reported(0.0)

    assert memory.percent == percent


def test_packets_carry_fec_while_the_peer_reports_loss() -> None:
    # given a clean path
    mouth, pcm = Mouth(), chirp(24_000)
    mouth.write(pcm, 24_000)
    clean = [mouth.frame() for _ in range(8)]

    # when the peer reports loss, and then none
    mouth.out.loss_reported(0.05)
    lossy = [mouth.frame() for _ in range(8)]
    for _ in range(FEC_MEMORY_REPORTS):
        mouth.out.loss_reported(0.0)
    again = [mouth.frame() for _ in range(8)]

    # then only the frames between carry a copy
    with_fec = [[opus.has_fec(p) for p in part if p] for part in (clean, lossy, again)]
    assert not any(with_fec[0])
    assert sum(with_fec[1]) >= 6
    assert not any(with_fec[2][1:])


def test_a_new_encoder_knows_of_the_loss() -> None:
    mouth = Mouth()
    mouth.out.loss_reported(0.1)
    for rate in (24_000, 16_000):
        mouth.write(chirp(rate), rate)
        payloads = [mouth.frame() for _ in range(10)]
        assert sum(opus.has_fec(p) for p in payloads if p) >= 7
        mouth.out.interrupt()


def test_complexity_follows_the_load_and_is_set_only_when_it_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # given an encoder that notes what it is told
    told: list[int] = []

    class Noting(opus.Encoder):
        def set_complexity(self, complexity: int) -> None:
            told.append(complexity)
            super().set_complexity(complexity)

    monkeypatch.setattr(opus, "Encoder", Noting)
    mouth = Mouth()
    mouth.write(np.zeros(16_000, np.int16), 16_000)

    # when the load rises and falls
    for load in (0, 0, 1, 1, 2, 3, 3, 2, 2):
        mouth.frame(load)
    mouth.out.interrupt()
    mouth.write(np.zeros(24_000, np.int16), 24_000)  # another encoder, the same load
    mouth.frame(2)

    # then
    assert told == [5, 3, 1, 0, 1, 1]
    assert len(COMPLEXITY_STEPS) == MAX_LOAD_LEVEL + 1


def test_with_dtx_silence_is_not_sent_but_played() -> None:
    mouth = Mouth(dtx=True)
    mouth.write(np.zeros(16_000, np.int16), 16_000)

    payloads = mouth.say_all()

    assert len(payloads) == BUFFER_FRAMES
    assert payloads.count(b"") > BUFFER_FRAMES // 2
    assert mouth.out.played_ms == 1000
