"""libopus as we call it: what is decoded, recovered and made up; no bytes of a peer's do harm."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.voices import decoded, join, likeness, payloads, speech
from voicerelay.transceiver.voice.opus import (
    FRAME_S,
    MAX_PACKET_S,
    MAX_PAYLOAD_BYTES,
    RATES,
    Decoder,
    Encoder,
    OpusError,
    frame_samples,
    has_fec,
    is_packet,
    packet_samples,
    version,
)

RATE = 16_000
FRAME = 320
NOT_OPUS = [b"", b"\x03", b"\x03\x00", b"\x01\x00", b"\x02\xff\xff", b"\x1b\x3f" + bytes(50)]


def any_packets() -> st.SearchStrategy[bytes]:
    """Any bytes, and Opus of every configuration with anything in it."""
    opus = st.builds(lambda toc, body: bytes([toc & 0xFC]) + body, st.integers(0, 255), st.binary())
    return st.one_of(st.binary(max_size=1300), opus)


@pytest.fixture(scope="module")
def spoken() -> list[bytes]:
    return payloads(speech(2.0, RATE), RATE, fec=True)


def test_the_library_says_which_it_is() -> None:
    assert version().startswith("libopus ")


# ---- decoding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", RATES)
def test_what_was_said_is_heard_at_every_rate(rate: int) -> None:
    # given a second of voice
    said = speech(1.0, rate)

    # when it goes through both
    heard = np.concatenate(decoded(payloads(said, rate), rate))

    # then it is the same, 6.5 ms later (the encoder looks ahead)
    lags = range(round(rate * 0.006), round(rate * 0.007))
    best = max(likeness(heard[lag:], said[: len(heard) - lag]) for lag in lags)
    assert best > 0.85


def test_a_decoded_frame_is_the_callers_own(spoken: list[bytes]) -> None:
    # given a frame
    decoder = Decoder(RATE)
    first = decoder.decode(spoken[10])
    kept = first.copy()

    # when the decoder goes on
    second = decoder.decode(spoken[11])

    # then the frame stays, and may be written
    assert np.array_equal(first, kept)
    assert first.flags.writeable
    assert not np.shares_memory(first, second)


def test_the_longest_packet_is_decoded_whole(spoken: list[bytes]) -> None:
    longest = join(spoken[10:16])

    assert packet_samples(longest, RATE) == RATE * MAX_PACKET_S
    assert frame_samples(longest, RATE) == FRAME
    assert len(Decoder(RATE).decode(longest)) == RATE * MAX_PACKET_S


@pytest.mark.parametrize("payload", NOT_OPUS)
def test_what_is_not_opus_is_refused(payload: bytes) -> None:
    assert not is_packet(payload)
    assert not has_fec(payload)
    with pytest.raises(OpusError):
        Decoder(RATE).decode(payload)


def test_no_packet_has_no_duration() -> None:
    for ask in (packet_samples, frame_samples):
        with pytest.raises(OpusError):
            ask(b"", RATE)
    with pytest.raises(OpusError):
        Decoder(RATE).recover(b"", FRAME)


@settings(deadline=None)
@given(st.lists(any_packets(), max_size=8))
def test_any_bytes_are_decoded_or_refused_and_nothing_else(packets: list[bytes]) -> None:
    decoder = Decoder(RATE)
    for payload in packets:
        has_fec(payload)
        try:
            heard = decoder.decode(payload)
        except OpusError:
            continue
        assert is_packet(payload)
        assert len(heard) == packet_samples(payload, RATE) <= RATE * MAX_PACKET_S
        assert len(decoder.recover(payload, frame_samples(payload, RATE))) > 0


def test_after_a_reset_nothing_is_left_of_the_stream_before(spoken: list[bytes]) -> None:
    # given a decoder that has heard something
    decoder = Decoder(RATE)
    for payload in spoken[:20]:
        decoder.decode(payload)

    # when it is reset
    decoder.reset()

    # then it is as good as new
    again = [decoder.decode(payload) for payload in spoken[50:60]]
    new = Decoder(RATE)
    assert all(np.array_equal(a, new.decode(p)) for a, p in zip(again, spoken[50:60], strict=True))


@pytest.mark.parametrize("make", [Decoder, Encoder])
def test_rates_that_opus_does_not_have_are_refused(make: type[Decoder] | type[Encoder]) -> None:
    with pytest.raises(ValueError, match="44100"):
        make(44_100)


# ---- what is missing -----------------------------------------------------------------------------


def test_fec_brings_a_lost_frame_back_where_concealment_only_guesses(spoken: list[bytes]) -> None:
    # given each tenth packet of a stream lost
    clean = decoded(spoken, RATE)
    recovered: list[float] = []
    concealed: list[float] = []
    for lost in range(10, 90, 10):
        if not has_fec(spoken[lost + 1]):
            continue
        for found in (recovered, concealed):
            decoder = Decoder(RATE)
            for payload in spoken[:lost]:
                decoder.decode(payload)
            mended = found is recovered
            pcm = decoder.recover(spoken[lost + 1], FRAME) if mended else decoder.conceal(FRAME)
            found.append(likeness(pcm, clean[lost]))

    # then its copy in the next packet is like it, and a guess is not
    assert len(recovered) >= 5
    assert np.median(recovered) > 0.9
    assert np.median(recovered) > np.median(concealed) + 0.3


def test_fec_is_seen_where_it_is_and_only_there(spoken: list[bytes]) -> None:
    without = payloads(speech(1.0, RATE), RATE)

    assert sum(map(has_fec, spoken)) > len(spoken) * 0.7
    assert not any(map(has_fec, without))


@pytest.mark.parametrize("frames", [2, 3])
def test_fec_is_seen_in_the_first_of_several_frames(spoken: list[bytes], frames: int) -> None:
    for start in range(5, 50):
        packets = spoken[start : start + frames]
        assert has_fec(join(packets)) == has_fec(packets[0])


@pytest.mark.parametrize("frame_s", [0.01, 0.02, 0.04, 0.06])
def test_fec_is_seen_in_frames_of_every_length(frame_s: float) -> None:
    voice = speech(2.0, RATE)

    with_fec = payloads(voice, RATE, fec=True, frame_s=frame_s)

    assert sum(map(has_fec, with_fec)) > len(with_fec) * 0.5
    assert not any(map(has_fec, payloads(voice, RATE, frame_s=frame_s)))


def test_concealment_lasts_as_long_as_asked_up_to_the_longest_packet() -> None:
    decoder = Decoder(RATE)

    assert [len(decoder.conceal(n)) for n in (40, 320, 1600, 1920)] == [40, 320, 1600, 1920]
    assert len(decoder.conceal(10 * RATE)) == RATE * MAX_PACKET_S


@pytest.mark.parametrize("samples", [0, 7, 41])
def test_concealment_comes_in_steps_of_2_5_ms(samples: int) -> None:
    with pytest.raises(OpusError):
        Decoder(RATE).conceal(samples)


# ---- encoding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("complexity", [0, 5, 10])
def test_a_packet_is_20_ms_and_fits_into_a_datagram(complexity: int) -> None:
    encoder = Encoder(48_000, bitrate=500_000, complexity=complexity)
    noise = np.random.default_rng(1).integers(-32768, 32767, (20, 960)).astype(np.int16)

    packets = [encoder.encode(frame) for frame in noise]

    assert {packet_samples(p, 48_000) for p in packets} == {48_000 * FRAME_S}
    assert max(map(len, packets)) <= MAX_PAYLOAD_BYTES


def test_a_frame_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="320"):
        Encoder(RATE).encode(np.zeros(319, np.int16))


def test_silence_with_dtx_costs_next_to_nothing() -> None:
    encoder = Encoder(RATE)
    encoder.set_dtx(True)

    sizes = [len(encoder.encode(np.zeros(FRAME, np.int16))) for _ in range(100)]

    assert sum(size <= 2 for size in sizes) > 80


def test_a_setting_that_libopus_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="11"):
        Encoder(RATE).set_complexity(11)
