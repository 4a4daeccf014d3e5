"""The server beside the test: which instance a URL means, and what counts as received."""

from pathlib import Path

import pytest

from voicerelay.cli.errors import NotRunning
from voicerelay.cli.loadtest import watch


def test_without_an_instance_there_is_nothing_to_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "run_base", lambda: tmp_path / "none")
    assert watch.instance_of("http://127.0.0.1:8080", None, None) is None

    monkeypatch.setattr(watch, "run_base", lambda: tmp_path)
    (tmp_path / "3478").mkdir()

    assert watch.instance_of("http://127.0.0.1:8080", None, None) is None


def test_an_instance_that_is_named_must_run(tmp_path: Path) -> None:
    with pytest.raises(NotRunning):
        watch.instance_of("http://127.0.0.1:8080", tmp_path, None)


def test_what_relays_drop_was_received_too() -> None:
    status = {
        "relays": [{"dropped": {"empty": 2, "unknown_flow": 3}}],
        "transceivers": [{"packets_received": 10, "packets_sent": 7}, {"packets_received": 1, "packets_sent": 2}],
    }  # fmt: skip

    assert (watch._received(status), watch._sent(status)) == (16, 9)
