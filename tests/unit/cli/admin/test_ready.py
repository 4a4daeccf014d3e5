"""When an instance can take a call, and what is said when it cannot."""

from typing import Any

import pytest

from voicerelay.cli.admin.ready import LIVELY_MS, objections

LIVE = {"alive": True, "heartbeat_ms": 1.0}
DEAD, HUNG = LIVE | {"alive": False}, LIVE | {"heartbeat_ms": LIVELY_MS + 1}
RELAY = LIVE | {"sockets_read": 1}
ROOM = LIVE | {"sessions": 1, "max_sessions": 2, "overloaded": 0}
FULL = "every transceiver is full, overloaded or draining"


def status(**changed: Any) -> dict[str, Any]:
    return {"control": LIVE, "relays": [RELAY], "transceivers": [ROOM]} | changed


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({}, []),
        ({"control": None}, ["control is down"]),
        ({"control": HUNG}, ["control is down"]),
        ({"relays": []}, ["no relay is up"]),
        ({"relays": [RELAY | DEAD, RELAY | {"sockets_read": 0}]}, ["no relay is up"]),
        ({"relays": [RELAY | DEAD, RELAY]}, []),
        ({"transceivers": [ROOM | HUNG]}, ["no transceiver is up"]),
        ({"transceivers": [ROOM | {"sessions": 2}]}, [FULL]),
        ({"transceivers": [ROOM | {"overloaded": 1}]}, [FULL]),
        ({"transceivers": [ROOM | {"draining": 1}]}, [FULL]),
        ({"transceivers": [ROOM | {"draining": 1}, ROOM]}, []),
    ],
    ids=str,
)
def test_what_is_missing_is_said(changed: dict[str, Any], why: list[str]) -> None:
    assert objections(status(**changed)) == why
