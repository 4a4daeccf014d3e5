"""The supervisor's settings reach a transceiver as they were."""

import json
from dataclasses import asdict

import pytest

from voicerelay.transceiver.settings import TransceiverSettings

SETTINGS = TransceiverSettings(
    run_dir="/run/voicerelay",
    slot=3,
    app="my_agent:app",
    http_host="127.0.0.1",
    http_port=8080,
    candidates=[("192.0.2.1", 3478), ("2001:db8::1", 3478)],
    max_sessions=100,
    lifeline=7,
    parent=42,
    log_level="debug",
)


def test_settings_survive_the_command_line() -> None:
    found = TransceiverSettings.from_json(json.dumps(asdict(SETTINGS)))

    assert found == SETTINGS
    assert found.candidates[0] == ("192.0.2.1", 3478)  # a tuple again, not JSON's list


def test_a_setting_this_version_does_not_know_is_an_error() -> None:
    with pytest.raises(TypeError):
        TransceiverSettings.from_json(json.dumps(asdict(SETTINGS) | {"of_another_version": 1}))
