"""The structs that voice.c and Python share: new ones are empty, and each object keeps its own."""

from collections.abc import Callable
from typing import Any

import pytest

from voicerelay.transceiver.voice.inbound import Inbound
from voicerelay.transceiver.voice.line import ffi, new_ear, new_line, new_mouth, new_stream
from voicerelay.transceiver.voice.outbound import Outbound
from voicerelay.transceiver.voice.path import VoicePath

NEW = (new_line, new_stream, new_ear, new_mouth)


@pytest.mark.parametrize("new", NEW)
def test_a_new_one_is_zero_and_nobody_elses(new: Callable[[], Any]) -> None:
    first, second = new(), new()
    size = ffi.sizeof(ffi.typeof(first).item)

    assert bytes(ffi.buffer(first)) == bytes(size)
    assert first != second


def test_the_numbers_of_a_call_are_in_its_line_for_voice_c() -> None:
    voice = VoicePath(0xDEADBEEF, 111, "name")

    first = voice.frame(b"opus", 1.0)

    line = voice.line
    assert first[2:12] == b"".join(
        (
            int(line.sequence).to_bytes(2, "big"),
            int(line.timestamp).to_bytes(4, "big"),
            bytes.fromhex("deadbeef"),
        )
    )
    assert (line.payload_type, line.started, line.sent, line.sent_octets) == (111, 1, 1, 4)


def test_the_decoder_of_another_rate_is_not_the_one_before() -> None:
    ear = new_ear()
    first = Inbound(16_000, lambda pcm: None, ear)
    ear.decoder = first.decoder
    assert (ear.samples, ear.ticks) == (320, 3)

    second = Inbound(48_000, lambda pcm: None, ear)

    assert ear.decoder == ffi.NULL
    assert (ear.samples, ear.ticks, ear.begun) == (960, 1, 0)
    assert second.decoder != first.decoder


def test_the_encoder_that_is_let_go_is_not_there_for_voice_c() -> None:
    outbound = Outbound(lambda: None)
    outbound.write(bytes(640), 16_000, 0.0)
    assert outbound.mouth.encoder != ffi.NULL
    assert outbound.next_frame(0.0) is not None
    assert outbound.next_frame(0.02) is None

    outbound.sweep(31.0)

    assert outbound.mouth.encoder == outbound.mouth.ring == ffi.NULL
