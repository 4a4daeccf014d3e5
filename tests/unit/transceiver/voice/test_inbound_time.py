"""Inbound, in time: pauses, jumps, odd packets and what is no sound at all; nothing of it without a bound."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.voices import (
    RATE,
    SSRC,
    Ear,
    clean,
    decoded,
    heard,
    numbered,
    payloads,
    speech,
    spoken,
    stream,
)
from voicerelay.shm.counters import TransceiverCounter as Drop
from voicerelay.transceiver.voice.inbound import (
    MAX_CONCEAL_S,
    MAX_FILL_S,
    MAX_WAIT_S,
    Inbound,
)
from voicerelay.transceiver.voice.opus import FRAME_S, MAX_PACKET_S, Pcm
from voicerelay.transceiver.voice.rtp import RtpPacket

FRAME_TICKS = 960
FILL_FRAMES = round(MAX_FILL_S / FRAME_S)
LAST_16, LAST_32 = 0xFFFF, 0xFFFFFFFF


# ---- time ----------------------------------------------------------------------------------------


def test_a_pause_of_dtx_is_filled() -> None:
    # given a stream from which nothing is missing any more
    ear = heard(0, 2)
    ear.pass_time(0.1)
    before = replace(ear.inbound.stats)

    # when for 380 ms no packet comes, and the sequence goes on
    ear.take((0.44, numbered(3, late=19 * FRAME_TICKS)), (0.46, numbered(4, late=19 * FRAME_TICKS)))

    # then the time is filled, and not with old sound from the next packet's FEC
    assert len(ear.frames) == 5 + 19
    stats = ear.inbound.stats
    assert stats.concealed_samples - before.concealed_samples == MAX_CONCEAL_S * RATE
    assert stats.recovered_samples == before.recovered_samples
    assert ear.inbound.stats.silent_samples == 14 * 320
    assert (ear.inbound.stats.lost, ear.inbound.stats.resyncs) == (1, 0)


@pytest.mark.parametrize("jump", [FILL_FRAMES + 1, 50 * 3600, (1 << 31) // FRAME_TICKS])
def test_a_jump_in_time_is_filled_so_far_and_no_farther(jump: int) -> None:
    ear = heard(0, 1)

    ear.take((0.0, numbered(2, late=jump * FRAME_TICKS)))

    assert len(ear.frames) == 3 + FILL_FRAMES
    assert ear.inbound.stats.resyncs == 1


def test_filling_is_never_faster_than_time() -> None:
    # given a peer whose timestamps run away
    ear = heard(0)

    # when it sends 50 packets in a second, each half a second after the other
    for number in range(1, 51):
        ear.take((number * FRAME_S, numbered(number, late=number * 24_000)))

    # then a second is filled, and what the first fill may take
    assert len(ear.frames) <= 51 + 50 + FILL_FRAMES


@pytest.mark.parametrize("back", [1, FRAME_TICKS, 1 << 30])
def test_a_step_back_in_time_fills_nothing(back: int) -> None:
    ear = heard(0, 1)

    ear.take((0.0, numbered(2, late=-back)), (0.0, numbered(3, late=-back)))

    assert np.array_equal(np.array(ear.frames), np.array(clean()[:4]))
    assert ear.inbound.stats.resyncs == 1


@pytest.mark.parametrize(("odd", "filled"), [(1, 0), (479, 0), (480, 1), (961, 1)])
def test_an_odd_timestamp_moves_no_frame(odd: int, filled: int) -> None:
    ear = heard(0, 1)

    ear.take((0.0, numbered(2, late=odd)), (0.0, numbered(3, late=odd)))

    assert len(ear.frames) == 4 + filled


@pytest.mark.parametrize("frame_ms", [2.5, 5, 10, 20, 40, 60])
def test_packets_of_any_length_become_frames_of_20_ms(frame_ms: float) -> None:
    # given packets of another length, one of them lost
    frame_s = frame_ms / 1000
    said = payloads(speech(1.2, RATE), RATE, frame_s=frame_s)
    sent = stream(said, frame_s=frame_s)
    ear = Ear(RATE)

    ear.take(*sent[:8], *sent[9:])
    ear.pass_time(2.0)

    # then no time is missing, and what came before the loss is as it was
    wanted = decoded(said, RATE)
    assert len(ear.frames) == len(wanted)
    whole = int(8 * frame_ms // 20)
    assert np.array_equal(np.array(ear.frames[:whole]), np.array(wanted[:whole]))


def test_half_a_frame_of_another_source_is_not_mixed_into_the_next() -> None:
    # given a source with packets of 10 ms, whose last frame is not full
    halves = stream(payloads(speech(0.1, RATE), RATE, frame_s=0.01), frame_s=0.01, ssrc=SSRC + 1)
    ear = Ear(RATE)
    ear.take(*halves[:5])

    # when another one speaks
    ear.take(*stream(spoken()))

    # then its frames are as they were
    assert np.array_equal(np.array(ear.frames[2:]), np.array(clean()))


# ---- what is no sound ----------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [b"\x03\x00", b"\x4b"], ids=["no frames", "no length"])
def test_a_corrupt_packet_is_counted_and_concealed(payload: bytes) -> None:
    ear = heard(*range(10))

    reason = ear.inbound.receive(numbered(10, payload=payload), 0.2)
    ear.take((0.22, numbered(11)))

    assert reason is Drop.DROPPED_CORRUPT_VOICE
    stats = ear.inbound.stats
    assert (len(ear.frames), stats.corrupt, stats.lost) == (12, 1, 0)
    assert stats.concealed_samples + stats.recovered_samples == 320


def test_a_corrupt_packet_that_is_held_keeps_its_place() -> None:
    ear = heard(0, 1)

    reason = ear.inbound.receive(numbered(3, payload=b"\x03\x00"), 0.0)
    ear.take((0.0, numbered(4)), (0.0, numbered(2)))

    assert reason is Drop.DROPPED_CORRUPT_VOICE
    assert (len(ear.frames), ear.inbound.stats.corrupt, ear.inbound.stats.lost) == (5, 1, 0)


def test_an_empty_packet_keeps_its_place_and_takes_no_time() -> None:
    ear = heard(0, 1)

    reason = ear.inbound.receive(numbered(2, payload=b""), 0.0)
    ear.take((0.0, numbered(3, late=-FRAME_TICKS)))

    assert reason is None
    assert (len(ear.frames), ear.inbound.deadline) == (3, None)
    assert ear.inbound.stats.concealed_samples == 0


def arrivals() -> st.SearchStrategy[list[tuple[float, RtpPacket]]]:
    near = st.integers(-8, 40)
    sound = st.integers(0, 49).map(lambda index: spoken()[index])
    made = st.builds(
        lambda wait, number, late, body, ssrc: (
            wait,
            numbered(number, late=late, payload=body, ssrc=ssrc),
        ),
        st.sampled_from((0.0, 0.02, 0.15)),
        st.one_of(near, near, st.integers(0, LAST_16)),
        st.one_of(st.just(0), st.just(0), st.integers(0, LAST_32)),
        st.one_of(sound, sound, st.binary(max_size=80)),
        st.sampled_from((SSRC, SSRC, SSRC, SSRC + 1)),
    )
    return st.lists(made, max_size=60)


@settings(deadline=None)
@given(arrivals())
def test_whatever_comes_nothing_is_raised_and_all_is_bounded(
    coming: list[tuple[float, RtpPacket]],
) -> None:
    frames: list[Pcm] = []
    inbound, now = Inbound(RATE, frames.append), 0.0
    dropped = 0

    for wait, arriving in coming:
        now += wait
        if inbound.deadline is not None and inbound.deadline <= now:
            inbound.expire(now)
        dropped += inbound.receive(arriving, now) is not None
        assert inbound.deadline is None or now < inbound.deadline <= now + MAX_WAIT_S

    # then no more is heard than came, and time went by
    most = len(coming) * MAX_PACKET_S + MAX_FILL_S + now
    assert {len(frame) for frame in frames} <= {320}
    assert len(frames) * FRAME_S <= most
    stats = inbound.stats
    assert dropped == stats.late + stats.duplicate + stats.stray + stats.corrupt
