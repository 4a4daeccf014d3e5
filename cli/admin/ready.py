"""Whether an instance can take a call, and if not why. No I/O."""

from typing import Any

LIVELY_MS = 1000.0  # a heartbeat older than this is none


def objections(status: dict[str, Any]) -> list[str]:
    """Why no call can be taken; empty when one can. `status` as `cli.status.status_of` gives it."""
    why = []
    if not control_up(status):
        why.append("control is down")
    if not any(lively(relay) and relay["sockets_read"] for relay in status["relays"]):
        why.append("no relay is up")
    transceivers = [one for one in status["transceivers"] if lively(one)]
    if not transceivers:
        why.append("no transceiver is up")
    elif not any(has_room(one) for one in transceivers):
        why.append("every transceiver is full, overloaded or draining")
    return why


def control_up(status: dict[str, Any]) -> bool:
    """Whether its heart beats."""
    return status["control"] is not None and lively(status["control"])


def lively(process: dict[str, Any]) -> bool:
    """Whether the loop that does the work shows signs of life (law 6)."""
    return bool(process["alive"]) and process["heartbeat_ms"] <= LIVELY_MS


def has_room(one: dict[str, Any]) -> bool:
    """Whether a transceiver takes another call."""
    if one["overloaded"] or one.get("draining"):
        return False
    return int(one["sessions"]) < int(one["max_sessions"])
