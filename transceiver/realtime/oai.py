"""Events of the OpenAI Realtime protocol: read, made and merged. Pure; what they cause is decided elsewhere."""

import json
import secrets
from collections.abc import Mapping
from typing import Any, Final

CHANNEL: Final = "oai-events"  # the data channel; the client opens it
CALLS_PATH: Final = "/v1/realtime/calls"
MAX_EVENT_BYTES: Final = 128 * 1024  # of a client's event, and of one for it
MAX_CONFIG_BYTES: Final = 64 * 1024  # of a session's whole configuration
MAX_DEPTH: Final = 32  # objects and arrays within each other
ECHOED_CHARS: Final = 64  # of what the client wrote, in a message about it

Event = dict[str, Any]

# What a client may send. Audio comes by RTP, so input_audio_buffer.append is not among them.
CLIENT_EVENTS: Final = frozenset(
    {
        "session.update",
        "input_audio_buffer.commit",
        "input_audio_buffer.clear",
        "output_audio_buffer.clear",
        "conversation.item.create",
        "conversation.item.retrieve",
        "conversation.item.truncate",
        "conversation.item.delete",
        "response.create",
        "response.cancel",
    }
)
# The client hears the call's audio by RTP; these never reach its data channel.
AUDIO_EVENTS: Final = frozenset({"response.output_audio.delta", "response.audio.delta"})


class BadEvent(Exception):
    """The client's fault; `event` is what it is told."""

    def __init__(self, code: str, message: str, cause: str | None = None) -> None:
        super().__init__(message)
        self.event = error_event(code, message, cause=cause)


def new_id(kind: str) -> str:
    """`event_…`, `item_…`, `resp_…`, `call_…`, `sess_…`."""
    return f"{kind}_{secrets.token_hex(12)}"


def read_event(data: str | bytes) -> Event:
    """A client's message as an event: an object whose `type` is a string. Raises BadEvent."""
    if len(data) > MAX_EVENT_BYTES:
        raise BadEvent("event_too_large", f"an event has at most {MAX_EVENT_BYTES} bytes")
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        raise BadEvent("invalid_json", "the message is no JSON") from None
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        raise BadEvent("invalid_event", "an event is an object with a type")
    if _deeper_than(event, MAX_DEPTH):
        raise BadEvent("invalid_event", f"an event has at most {MAX_DEPTH} levels", id_of(event))
    return event


def known_event(event: Event) -> Event:
    """The event, if a client may send such. Raises BadEvent."""
    if event["type"] not in CLIENT_EVENTS:
        shown = event["type"][:ECHOED_CHARS]
        raise BadEvent("unknown_event", f"{shown!r} is no event for a call", id_of(event))
    return event


def id_of(event: Event) -> str | None:
    """The event's id, if it has a usable one."""
    given = event.get("event_id")
    return given[:512] if isinstance(given, str) else None


def error_event(
    code: str, message: str, *, kind: str = "invalid_request_error", cause: str | None = None
) -> Event:
    """An `error` event. kind: "server_error" when the client did nothing wrong. cause: its event."""
    error = {"type": kind, "code": code, "message": message, "param": None, "event_id": cause}
    return {"type": "error", "error": error}


def merged(config: Mapping[str, Any], update: Mapping[str, Any]) -> Event:
    """The configuration after an update: objects are merged, all else is replaced.

    Raises BadEvent for more than MAX_CONFIG_BYTES or MAX_DEPTH.
    """
    new = _merged(config, update, MAX_DEPTH)
    if len(json.dumps(new)) > MAX_CONFIG_BYTES:
        raise BadEvent("config_too_large", f"a session has at most {MAX_CONFIG_BYTES} bytes")
    return new


def _merged(config: Mapping[str, Any], update: Mapping[str, Any], depth: int) -> Event:
    if not depth:
        raise BadEvent("config_too_deep", f"a session has at most {MAX_DEPTH} levels")
    new = dict(config)
    for key, value in update.items():
        old = new.get(key)
        new[key] = (
            _merged(old if isinstance(old, dict) else {}, value, depth - 1)
            if isinstance(value, dict)
            else value
        )
    return new


def _deeper_than(value: Any, depth: int) -> bool:
    """Whether there are more levels of objects and arrays; without recursion, as it may be deep."""
    level = [value]
    for _ in range(depth + 1):
        level = [one for one in level if isinstance(one, dict | list)]
        if not level:
            return False
        level = [i for one in level for i in (one.values() if isinstance(one, dict) else one)]
    return True


def config_of(event: Event) -> Event:
    """The `session` of a session.update. Raises BadEvent."""
    config = event.get("session")
    if not isinstance(config, dict):
        raise BadEvent("invalid_session", "session.update needs a session object", id_of(event))
    return config


def text_of_event(event: Event) -> str:
    """One message; every event has an id."""
    if not isinstance(event.get("event_id"), str):
        event = event | {"event_id": new_id("event")}
    return json.dumps(event, separators=(",", ":"))
