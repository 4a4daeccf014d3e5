"""Realtime events: what is read, refused, merged and written."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicerelay.transceiver.realtime.oai import (
    MAX_CONFIG_BYTES,
    MAX_DEPTH,
    MAX_EVENT_BYTES,
    BadEvent,
    config_of,
    known_event,
    merged,
    read_event,
    text_of_event,
)


def code_of(raised: pytest.ExceptionInfo[BadEvent]) -> str:
    code: str = raised.value.event["error"]["code"]
    return code


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"x": value}
    return value


def test_an_event_is_read_from_text_and_from_bytes() -> None:
    for data in ('{"type":"response.create"}', b'{"type":"response.create"}'):
        assert known_event(read_event(data)) == {"type": "response.create"}


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ("", "invalid_json"),
        ("{", "invalid_json"),
        (b"\xff", "invalid_json"),
        ("[" * 100_000, "invalid_json"),
        ("[]", "invalid_event"),
        ("{}", "invalid_event"),
        ('{"type":1}', "invalid_event"),
        (json.dumps({"type": "x", "y": nested(MAX_DEPTH)}), "invalid_event"),
        (" " * (MAX_EVENT_BYTES + 1), "event_too_large"),
    ],
    ids=range(9),
)
def test_what_is_no_event_has_a_code(data: str | bytes, code: str) -> None:
    with pytest.raises(BadEvent) as raised:
        read_event(data)
    assert code_of(raised) == code


@given(st.binary() | st.text())
def test_anything_is_an_event_or_bad(data: bytes | str) -> None:
    with contextlib.suppress(BadEvent):
        assert isinstance(read_event(data)["type"], str)


def test_an_unknown_event_is_named_with_the_id_of_the_cause() -> None:
    with pytest.raises(BadEvent) as raised:
        known_event({"type": "x" * 1000, "event_id": "mine"})

    error = raised.value.event["error"]
    assert (error["code"], error["event_id"]) == ("unknown_event", "mine")
    assert len(error["message"]) < 200


def test_a_clients_audio_comes_by_rtp_and_not_by_events() -> None:
    with pytest.raises(BadEvent):
        known_event({"type": "input_audio_buffer.append", "audio": ""})


def test_an_update_merges_objects_and_replaces_all_else() -> None:
    config = {"a": {"b": 1, "c": {"d": 2}}, "tools": [1]}

    found = merged(config, {"a": {"c": {"e": 3}}, "tools": [2]})

    assert found == {"a": {"b": 1, "c": {"d": 2, "e": 3}}, "tools": [2]}
    assert config == {"a": {"b": 1, "c": {"d": 2}}, "tools": [1]}


@pytest.mark.parametrize(
    ("update", "code"),
    [
        ({"x": "y" * MAX_CONFIG_BYTES}, "config_too_large"),
        (nested(MAX_DEPTH + 1), "config_too_deep"),
    ],
    ids=["long", "deep"],
)
def test_a_configuration_is_bounded(update: dict[str, Any], code: str) -> None:
    with pytest.raises(BadEvent) as raised:
        merged({}, update)
    assert code_of(raised) == code


@pytest.mark.parametrize("session", [None, [], "x"])
def test_an_update_needs_a_session(session: Any) -> None:
    with pytest.raises(BadEvent):
        config_of({"type": "session.update", "session": session})


def test_every_event_that_is_written_has_an_id() -> None:
    assert json.loads(text_of_event({"type": "x"}))["event_id"].startswith("event_")
    assert json.loads(text_of_event({"type": "x", "event_id": "e"}))["event_id"] == "e"
