"""The library of voice in C: its numbers are Python's, and another one is not used."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.transceiver.voice.test_engine import LINES, QUEUE, SLOTS, needs_library
from voicerelay.shm.path import PATH_BYTES
from voicerelay.shm.receive import MAX_BATCH
from voicerelay.transceiver.voice import engine, inbound, opus, path, rtp, srtp
from voicerelay.transceiver.voice.engine import Compiled, EngineMissing
from voicerelay.transceiver.voice.line import HEADER, ffi

SOURCE = Path(engine.__file__).with_name("voice.c")


def test_the_numbers_in_c_are_those_of_python() -> None:
    text = HEADER.read_text() + SOURCE.read_text()
    numbers = re.findall(r"#define (\w+) ([\d.]+)", text)

    assert {name: float(value) for name, value in numbers} == {
        "VOICE_VERSION": engine.VERSION,
        "VOICE_QUEUE": MAX_BATCH,
        "VOICE_PACKET_BYTES": srtp.MAX_PACKET_BYTES,
        "VOICE_TRAILER_BYTES": srtp.MAX_TRAILER_BYTES,
        "VOICE_MAX_BYTES": srtp.MAX_PACKET_BYTES + srtp.MAX_TRAILER_BYTES,
        "VOICE_SAMPLES": opus.FRAME_S * max(opus.RATES),
        "VOICE_LINES": LINES,
        "VOICE_SLOTS": SLOTS,
        "VOICE_LOCALS": 256,  # a path's listen address is a byte
        "VOICE_PATH_BYTES": PATH_BYTES,
        "RTP_HEADER_BYTES": rtp.RTP_HEADER_BYTES,
        "CLOCK_RATE_HZ": inbound.CLOCK_RATE_HZ,
        "FRAME_TICKS": path.FRAME_TICKS,
        "PAUSE_FRAMES": path.PAUSE_FRAMES,
        "MAX_SEQUENCE_JUMP": path.MAX_SEQUENCE_JUMP,
        "MAX_PAYLOAD_BYTES": opus.MAX_PAYLOAD_BYTES,
    }
    assert QUEUE == MAX_BATCH
    assert SLOTS >= 2 * LINES


@pytest.mark.parametrize(
    ("content", "says"), [(None, "was not built"), (b"no library", "libvoice.so.1: ")]
)
def test_without_a_usable_library_it_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, says: str
) -> None:
    library = tmp_path / "libvoice.so.1"
    if content is not None:
        library.write_bytes(content)
    monkeypatch.setattr(engine, "LIBRARY", library)

    with pytest.raises(EngineMissing, match=says):
        Compiled()


@needs_library
def test_a_library_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "VERSION", engine.VERSION + 1)

    with pytest.raises(EngineMissing, match="another version"):
        Compiled()


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
@pytest.mark.parametrize(
    ("source", "says"),
    [
        (
            "int voice_version(void) {{ return {0}; }} int voice_size(void) {{ return {1} + 8; }}",
            "another",
        ),
        ("int voice_version(void) {{ return {0}; }}", "voice_size"),
    ],
    ids=["size", "symbol"],
)
def test_a_library_with_other_structs_or_without_a_function_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, says: str
) -> None:
    code, library = tmp_path / "voice.c", tmp_path / "libvoice.so.1"
    code.write_text(source.format(engine.VERSION, ffi.sizeof("struct voice")))
    subprocess.run(["cc", "-shared", "-fPIC", code, "-o", library], check=True, timeout=60)
    monkeypatch.setattr(engine, "LIBRARY", library)

    with pytest.raises(EngineMissing, match=says):
        Compiled()


@needs_library
def test_another_libsrtp_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(srtp, "ARGUMENTS", srtp.ARGUMENTS + 2)  # as libsrtp 3 has them

    with pytest.raises(EngineMissing, match="pylibsrtp: srtp_protect takes other arguments"):
        Compiled()
