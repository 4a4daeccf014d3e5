"""PCM: chunks of any size and rate become the same frames; nothing is lost, nothing grows."""

import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicerelay.transceiver.voice.opus import Pcm
from voicerelay.transceiver.voice.pcm import (
    MAX_RATE,
    MIN_RATE,
    RESAMPLER_CHUNK_S,
    FrameBuffer,
    PcmLike,
    Resampler,
    as_pcm,
)

RATES = (8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000)


def sine(rate: int, seconds: float, hertz: float = 440.0) -> Pcm:
    at = np.arange(round(rate * seconds)) / rate
    return np.asarray(9000 * np.sin(2 * np.pi * hertz * at), np.int16)


def drain(buffer: FrameBuffer) -> Pcm:
    """All that was written, without padding."""
    parts = []
    while (frame := buffer.take()) is not None:
        parts.append(frame.copy())
    while (tail := buffer.take_tail()) is not None:
        parts.append(tail[0][: tail[1]].copy())
    return np.concatenate(parts) if parts else np.empty(0, np.int16)


# ---- what is taken -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"\x01\x00\xfe\xff",
        bytearray(b"\x01\x00\xfe\xff"),
        memoryview(b"\x01\x00\xfe\xff"),
        memoryview(array.array("h", [1, -2])),
        np.array([1, -2], np.int16),
    ],
    ids=["bytes", "bytearray", "memoryview", "array", "numpy"],
)
def test_int16_and_its_bytes_are_pcm(data: PcmLike) -> None:
    assert as_pcm(data, 8000).tolist() == [1, -2]


def test_no_bytes_are_no_samples() -> None:
    assert len(as_pcm(b"", 8000)) == 0


@pytest.mark.parametrize(
    ("data", "rate", "message"),
    [
        (b"\x00", 8000, "1 bytes are no whole number"),
        (b"\x00\x00", MIN_RATE - 1, "outside 8000 to 96000"),
        (b"\x00\x00", MAX_RATE + 1, "outside 8000 to 96000"),
        (np.zeros(4, np.float32), 8000, "not float32"),
        (np.zeros(4, ">i2"), 8000, "not >i2"),
        (np.zeros((2, 2), np.int16), 8000, r"shape \(2, 2\)"),
        (memoryview(array.array("f", [0.0])), 8000, "buffer of 'f'"),
        (memoryview(b"\x00" * 8)[::2], 8000, "buffer of 'B'"),
    ],
)
def test_what_is_no_mono_int16_of_a_known_rate_is_refused(
    data: PcmLike, rate: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        as_pcm(data, rate)


# ---- chunks and frames ---------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(RATES),
    st.sampled_from([8_000, 24_000, 48_000]),
    st.lists(st.integers(0, 4000), max_size=12),
)
def test_chunks_of_any_size_give_what_one_chunk_gives(
    rate: int, target: int, sizes: list[int]
) -> None:
    # given the same audio for two buffers
    pcm = sine(rate, 1.0)[: sum(sizes)]
    whole, chunked = FrameBuffer(target, 60), FrameBuffer(target, 60)

    # when one is written at once, the other in chunks
    assert whole.write(pcm, rate) == len(pcm)
    at = 0
    for size in sizes:
        at += chunked.write(pcm[at : at + size], rate)

    # then both say the same, as long as what was written (soxr varies by a rounding)
    one, other = drain(whole), drain(chunked)
    assert at == len(pcm)
    assert len(one) == len(other)
    assert abs(len(one) - len(pcm) * target / rate) <= 1
    assert np.abs(one.astype(int) - other).max(initial=0) <= 2


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(RATES), st.integers(0, 9000), st.integers(0, 5)), max_size=25
    )
)
def test_it_never_holds_more_than_its_frames_whatever_is_written(
    steps: list[tuple[int, int, int]],
) -> None:
    buffer = FrameBuffer(24_000, 10)
    written = read = 0.0

    for rate, size, frames in steps:
        taken = buffer.write(np.ones(size, np.int16), rate)
        assert taken <= size
        assert 0 <= buffer.waiting <= 10 * buffer.samples
        assert taken == size or buffer.room <= 24_000 // rate + 1
        written += taken * 24_000 / rate
        read += sum(buffer.take() is not None for _ in range(frames)) * buffer.samples

    read += len(drain(buffer))
    assert abs(written - read) <= len(steps)
    assert buffer.waiting == 0


def test_frames_keep_their_order_around_the_ring() -> None:
    buffer = FrameBuffer(8_000, 3)
    pcm = np.arange(160 * 20, dtype=np.int16)
    read: list[int] = []

    at = buffer.write(pcm, 8_000)
    while (frame := buffer.take()) is not None:
        read += frame.tolist()
        at += buffer.write(pcm[at : at + 230], 8_000)

    assert read == pcm[: len(read)].tolist()
    assert len(read) >= 160 * 19


def test_a_tail_is_padded_with_silence_and_says_its_length() -> None:
    # given a ring whose memory is not clean
    buffer = FrameBuffer(8_000, 2)
    buffer.write(np.full(320, 7, np.int16), 8_000)
    drain(buffer)

    # when less than a frame is left
    buffer.write(np.full(100, 5, np.int16), 8_000)

    # then the rest of its frame is silence
    assert buffer.take() is None
    tail = buffer.take_tail()
    assert tail is not None
    assert (tail[0].tolist(), tail[1]) == ([5] * 100 + [0] * 60, 100)
    assert buffer.take_tail() is None


def test_a_change_of_rate_loses_nothing_of_the_rate_before() -> None:
    buffer = FrameBuffer(48_000, 50)

    buffer.write(sine(44_100, 0.1), 44_100)
    buffer.write(sine(32_000, 0.1), 32_000)
    buffer.write(sine(48_000, 0.1), 48_000)

    assert len(drain(buffer)) == 3 * 4800


def test_a_resampler_is_never_given_much_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """soxr keeps buffers for the largest chunk it ever saw: 0.6 MB for a second."""
    sizes: list[int] = []
    feed = Resampler.feed

    def noting(self: Resampler, pcm: Pcm, last: bool = False) -> Pcm:
        sizes.append(len(pcm))
        return feed(self, pcm, last)

    monkeypatch.setattr(Resampler, "feed", noting)
    buffer = FrameBuffer(48_000, 50)

    assert buffer.write(sine(44_100, 0.9), 44_100) == sum(sizes)

    assert max(sizes) == round(44_100 * RESAMPLER_CHUNK_S)


def test_after_a_clear_nothing_is_left_of_what_was_before() -> None:
    # given a resampler in the middle of a loud sound
    buffer, fresh = FrameBuffer(48_000, 50), FrameBuffer(48_000, 50)
    buffer.write(sine(44_100, 0.05)[:-30], 44_100)

    # when it is cleared and written to again
    buffer.clear()
    for each in (buffer, fresh):
        each.write(sine(44_100, 0.1, 1000), 44_100)

    # then it sounds like a new one (soxr dithers, each stream differently)
    assert np.abs(drain(buffer).astype(int) - drain(fresh)).max() <= 2
