"""What Pipecat's client says to a plain agent's call, and what it hears."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicerelay.transceiver.agent import SessionClosed
from voicerelay.transceiver.signalling.rtvi import CHANNEL, RTVI, Rtvi


class Said:
    """A session that remembers."""

    def __init__(self, closed: bool = False) -> None:
        self.closed = closed
        self.sent: list[Any] = []
        self.ended = ""

    def send_message(self, data: str, channel: str) -> None:
        if self.closed:
            raise SessionClosed("over")
        assert channel == CHANNEL
        self.sent.append(json.loads(data))

    def end(self, reason: str) -> None:
        self.ended = reason


def rtvi(said: Said) -> Rtvi:
    session: Any = said
    return Rtvi(session)


def message(kind: str, **more: object) -> str:
    return json.dumps({"label": RTVI, "type": kind, "id": "7"} | more)


def test_a_ready_client_hears_that_the_bot_is_ready() -> None:
    said = Said()

    assert rtvi(said).received(CHANNEL, message("client-ready", data={"version": "2.1.0"}))

    (answer,) = said.sent
    assert (answer["label"], answer["type"], answer["id"]) == (RTVI, "bot-ready", "7")
    assert int(answer["data"]["version"].split(".")[0]) >= 1


def test_a_client_may_let_the_agent_go() -> None:
    said = Said()

    assert rtvi(said).received(CHANNEL, message("disconnect-bot"))

    assert "disconnect-bot" in said.ended


@pytest.mark.parametrize(
    "data",
    [
        "ping: 1700000000000",
        json.dumps({"type": "signalling", "message": {"type": "trackStatus", "enabled": True}}),
    ],
)
def test_what_keeps_the_connection_is_not_for_the_agent(data: str) -> None:
    said = Said()

    assert rtvi(said).received(CHANNEL, data)
    assert said.sent == []


@pytest.mark.parametrize(
    ("label", "data"),
    [
        (CHANNEL, message("client-message", data={"t": "x"})),
        (CHANNEL, "hello"),
        (CHANNEL, "[1]"),
        (CHANNEL, b"ping: 1"),
        (CHANNEL, "[" * 100_000),
        ("other", "ping: 1"),
        ("other", message("client-ready")),
    ],
)
def test_the_rest_is_the_agents(label: str, data: str | bytes) -> None:
    assert not rtvi(Said()).received(label, data)


def test_who_is_left_is_told_so() -> None:
    said = Said()

    rtvi(said).leaving()

    assert said.sent == [{"type": "signalling", "message": {"type": "peerLeft"}}]
    rtvi(Said(closed=True)).leaving()


@given(st.text(max_size=100) | st.binary(max_size=100))
def test_anything_may_come(data: str | bytes) -> None:
    rtvi(Said(closed=True)).received(CHANNEL, data)
