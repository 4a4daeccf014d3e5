"""What is heard over a bad network: every slot in its place, with the sound that belongs there."""

from functools import cache

import numpy as np
import pytest

from tests.support.impair import Impairment, impair
from tests.support.voices import Ear, decoded, likeness, payloads, speech, stream
from voicerelay.transceiver.voice.inbound import MAX_WAIT_S, MIN_WAIT_S
from voicerelay.transceiver.voice.opus import FRAME_S, Pcm

RATE = 16_000
SECONDS = 20.0
FRAMES = round(SECONDS / FRAME_S)
DELAY_S = Impairment().delay_s
SEEDS = range(1, 6)


@cache
def spoken(fec: bool = True) -> list[bytes]:
    return payloads(speech(SECONDS, RATE), RATE, fec=fec)


@cache
def clean(fec: bool = True) -> list[Pcm]:
    return decoded(spoken(fec), RATE)


def call(how: Impairment, seed: int, fec: bool = True) -> Ear:
    ear = Ear(RATE)
    ear.take(*impair(stream(spoken(fec)), how, seed))
    ear.pass_time(SECONDS + 1)
    return ear


def likenesses(ear: Ear, fec: bool = True) -> list[float]:
    """Slot by slot, with the same slot of a call without loss."""
    return [likeness(*slots) for slots in zip(ear.frames, clean(fec), strict=True)]


def delays(ear: Ear) -> list[float]:
    """Of each slot, from the time it was sent."""
    return [at - index * FRAME_S for index, at in enumerate(ear.times)]


@pytest.mark.parametrize("seed", SEEDS)
def test_five_percent_of_loss_leave_no_slot_empty_and_hardly_one_wrong(seed: int) -> None:
    ear = call(Impairment(loss=0.05), seed)

    alike = likenesses(ear)
    stats = ear.inbound.stats
    assert stats.lost > FRAMES * 0.03
    assert len(ear.frames) == FRAMES
    assert stats.silent_samples == 0
    assert np.mean(alike) > 0.97
    assert np.mean(np.array(alike) > 0.8) > 0.97


@pytest.mark.parametrize("seed", SEEDS)
def test_most_of_what_is_lost_comes_back_by_fec(seed: int) -> None:
    # given the same loss with FEC and without
    with_fec = call(Impairment(loss=0.05), seed)
    without = call(Impairment(loss=0.05), seed, fec=False)

    # then the lost slots are like what was lost, and without it they are not
    lost = [i for i, delay in enumerate(delays(with_fec)) if delay > DELAY_S + MIN_WAIT_S]
    alike = np.array(likenesses(with_fec))[lost]
    guessed = np.array(likenesses(without, fec=False))[lost]
    stats = with_fec.inbound.stats
    assert stats.recovered_samples > 3 * stats.concealed_samples
    assert np.median(alike) > 0.9
    assert np.median(alike) > np.median(guessed) + 0.3
    assert without.inbound.stats.recovered_samples == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_the_delay_is_what_it_was_as_soon_as_a_loss_is_over(seed: int) -> None:
    ear = call(Impairment(loss=0.05), seed)

    found = delays(ear)
    late = [i for i, delay in enumerate(found) if delay > DELAY_S + 0.001]
    # A run of three losses is the worst: its first slot waits for three more and the wait.
    assert max(found) < DELAY_S + 4 * FRAME_S + MIN_WAIT_S
    assert np.median(found) == pytest.approx(DELAY_S)
    # The lost slot and the next two: what came while it was waited for.
    assert len(late) <= 3 * ear.inbound.stats.lost


@pytest.mark.parametrize("loss", [0.1, 0.2])
def test_more_loss_leaves_no_slot_empty_either(loss: float) -> None:
    ear = call(Impairment(loss=loss), seed=1)

    assert len(ear.frames) == FRAMES
    assert np.mean(likenesses(ear)) > 0.9


@pytest.mark.parametrize("seed", SEEDS)
def test_bursts_are_filled_in_place(seed: int) -> None:
    ear = call(Impairment(loss=0.05, burst=3), seed)

    alike = likenesses(ear)
    assert ear.inbound.stats.concealed_samples > 0
    assert np.mean(np.array(alike) > 0.8) > 0.88
    assert np.median(delays(ear)) == pytest.approx(DELAY_S)


@pytest.mark.parametrize("seed", SEEDS)
def test_jitter_of_40_ms_loses_nothing(seed: int) -> None:
    ear = call(Impairment(jitter_s=0.04), seed)

    assert ear.inbound.stats.reordered > FRAMES * 0.05
    assert ear.inbound.stats.lost == 0
    assert all(np.array_equal(a, b) for a, b in zip(ear.frames, clean(), strict=True))
    assert max(delays(ear)) <= DELAY_S + 0.04


def test_jitter_of_100_ms_teaches_to_wait() -> None:
    ear = call(Impairment(jitter_s=0.1), seed=1)

    stats = ear.inbound.stats
    assert len(ear.frames) == FRAMES
    assert 0 < stats.late == stats.lost < FRAMES * 0.02
    assert max(delays(ear)) <= DELAY_S + 0.1 + MAX_WAIT_S


@pytest.mark.parametrize("seed", SEEDS)
def test_all_of_it_together(seed: int) -> None:
    ear = call(Impairment(loss=0.05, jitter_s=0.04, duplicate=0.05, corrupt=0.02), seed)

    stats = ear.inbound.stats
    assert stats.duplicate > 0
    assert stats.corrupt > 0
    assert len(ear.frames) == FRAMES
    assert np.mean(likenesses(ear)) > 0.95


@pytest.mark.parametrize("ppm", [-500, 500])
def test_a_sender_with_another_clock_adds_no_delay(ppm: int) -> None:
    # given a sender whose 20 ms are not quite ours
    ear = Ear(RATE)
    sent = [(at * (1 + ppm / 1e6), packet) for at, packet in stream(spoken())]

    ear.take(*sent)

    # then each frame is heard when it comes, and none is added or taken away
    assert ear.times == [at for at, _ in sent]
    assert len(ear.frames) == FRAMES
