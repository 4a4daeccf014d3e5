"""Lateness: percentiles of the last seconds; encoding gets cheaper first, new calls are refused last."""

import pytest

from voicerelay.transceiver.voice.lateness import (
    BUCKET_S,
    BUCKETS,
    MAX_LOAD_LEVEL,
    MIN_FRAMES,
    OVERLOADED_S,
    OVERLOADED_WINDOWS,
    RELIEVED_S,
    STEP_DOWN_S,
    STEP_DOWN_WINDOWS,
    STEP_UP_S,
    WINDOWS,
    Lateness,
)

EASY_S, LATE_S = STEP_DOWN_S - 2 * BUCKET_S, OVERLOADED_S + 2 * BUCKET_S


class Seconds:
    """Seconds of frames, each as late as said."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lateness = Lateness(0.0)

    def of(self, lateness_s: float, seconds: int = 1, frames: int = 200) -> Lateness:
        for _ in range(seconds):
            self.lateness.add(lateness_s, frames)
            self.now += 1.0
            self.lateness.advance(self.now)
        return self.lateness


def test_percentiles_are_those_of_the_frames_within_a_bucket() -> None:
    lateness = Lateness(0.0)

    for number in range(100):
        lateness.add(number * 0.0001)

    assert lateness.percentile(0.5) == pytest.approx(0.005, abs=BUCKET_S)
    assert lateness.percentile(0.99) == pytest.approx(0.0099, abs=BUCKET_S)


def test_without_frames_there_is_no_lateness() -> None:
    assert Lateness(0.0).percentile(0.99) == 0.0


def test_what_is_later_than_the_last_bucket_stands_in_it() -> None:
    lateness = Lateness(0.0)

    lateness.add(1000.0)

    assert lateness.percentile(0.5) == BUCKETS * BUCKET_S


def test_only_the_last_seconds_count() -> None:
    seconds = Seconds()
    seconds.of(0.04)

    assert seconds.of(EASY_S, WINDOWS - 1).percentile(1.0) > 0.04
    assert seconds.of(EASY_S).percentile(1.0) < STEP_DOWN_S


def test_each_late_second_makes_encoding_cheaper_down_to_the_cheapest() -> None:
    seconds = Seconds()

    levels = [seconds.of(STEP_UP_S + BUCKET_S).level for _ in range(5)]

    assert levels == [1, 2, MAX_LOAD_LEVEL, MAX_LOAD_LEVEL, MAX_LOAD_LEVEL]


def test_it_gets_dearer_again_slowly_and_only_when_frames_are_in_time() -> None:
    # given the cheapest encoding
    seconds = Seconds()
    seconds.of(LATE_S, MAX_LOAD_LEVEL)

    # then seconds in the middle change nothing, and calm ones have to follow each other
    assert seconds.of(STEP_DOWN_S + BUCKET_S, 20).level == MAX_LOAD_LEVEL
    assert seconds.of(EASY_S, STEP_DOWN_WINDOWS - 1).level == MAX_LOAD_LEVEL
    assert seconds.of(STEP_DOWN_S + BUCKET_S).level == MAX_LOAD_LEVEL
    assert seconds.of(EASY_S, STEP_DOWN_WINDOWS).level == MAX_LOAD_LEVEL - 1
    assert seconds.of(EASY_S, STEP_DOWN_WINDOWS).level == MAX_LOAD_LEVEL - 2


def test_a_single_stall_is_no_overload() -> None:
    seconds = Seconds()

    assert not seconds.of(LATE_S, OVERLOADED_WINDOWS - 1).overloaded
    assert not seconds.of(EASY_S).overloaded
    assert not seconds.of(LATE_S, OVERLOADED_WINDOWS - 1).overloaded


def test_late_seconds_running_are_an_overload_until_all_that_counts_is_in_time() -> None:
    seconds = Seconds()
    assert seconds.of(LATE_S, OVERLOADED_WINDOWS).overloaded

    # between the two limits it stays
    assert seconds.of(RELIEVED_S + BUCKET_S, 2 * WINDOWS).overloaded
    assert seconds.of(EASY_S, WINDOWS - 1).overloaded
    assert not seconds.of(EASY_S).overloaded


def test_a_handful_of_frames_judges_nothing() -> None:
    seconds = Seconds()

    lateness = seconds.of(LATE_S, 5, frames=MIN_FRAMES - 1)

    assert (lateness.level, lateness.overloaded) == (0, False)


def test_a_long_quiet_brings_everything_to_rest_at_once() -> None:
    seconds = Seconds()
    lateness = seconds.of(LATE_S, 10)
    assert (lateness.level, lateness.overloaded) == (MAX_LOAD_LEVEL, True)

    lateness.advance(1e6)

    assert (lateness.level, lateness.overloaded, lateness.percentile(1.0)) == (0, False, 0.0)


def test_every_frame_of_the_seconds_that_have_ended_stays_counted() -> None:
    # given more seconds than those that judge, one of them late, and one that runs
    seconds = Seconds()
    seconds.of(EASY_S, 3 * WINDOWS, frames=10)
    seconds.of(LATE_S, frames=7)

    lateness = seconds.of(EASY_S, WINDOWS, frames=0)
    lateness.add(EASY_S)

    assert sum(lateness.counts) == 3 * WINDOWS * 10 + 7
    assert sum(lateness.counts[int(OVERLOADED_S / BUCKET_S) :]) == 7
