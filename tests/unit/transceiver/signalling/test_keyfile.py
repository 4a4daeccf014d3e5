"""The file of API keys: what cannot be read is told, and what changes is seen."""

import logging
import os
from pathlib import Path

import pytest

from voicerelay.transceiver.signalling.keyfile import KEY_FILE_LOOK_S, KeyFile, read_keys
from voicerelay.transceiver.signalling.keys import MAX_KEY_FILE_BYTES, KeyFileError

OLD, NEW = "old-key-0123456789", "new-key-0123456789"


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "large").write_bytes(b"#" * (MAX_KEY_FILE_BYTES + 1))

    for name in ("missing", "binary", "large", "."):
        with pytest.raises(KeyFileError):
            read_keys(str(tmp_path / name))


def test_the_largest_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"web:{OLD}\n".ljust(MAX_KEY_FILE_BYTES, "#"))

    assert read_keys(str(path)).names == ["web"]


def test_a_changed_file_is_seen_at_the_next_look(tmp_path: Path) -> None:
    # given a file that has changed
    path = tmp_path / "keys"
    path.write_text(f"old:{OLD}")
    file = KeyFile(str(path))
    assert file.current(0.0).names == ["old"]
    path.write_text(f"renamed:{NEW}")

    # then it counts from the next look on
    assert file.current(KEY_FILE_LOOK_S - 0.01).names == ["old"]
    assert file.current(KEY_FILE_LOOK_S).names == ["renamed"]


def test_a_file_that_became_unusable_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    path.write_text(f"old:{OLD}")
    file = KeyFile(str(path))

    with caplog.at_level(logging.WARNING):
        path.write_text("short-secret")
        bad = file.current(10.0).names
        os.unlink(path)
        gone = file.current(20.0).names

    assert (bad, gone) == (["old"], ["old"])
    assert len(caplog.records) == 2
    assert "short-secret" not in caplog.text
