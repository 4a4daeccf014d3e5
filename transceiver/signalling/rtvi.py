"""What Pipecat's client says on its data channel to a plain agent's call (RTVI and `signalling`)."""

import contextlib
import json
from typing import Any

from voicerelay.transceiver.agent import SessionClosed
from voicerelay.transceiver.conversation import Conversation

CHANNEL = "chat"
RTVI = "rtvi-ai"
RTVI_VERSION = "2.1.0"
_PEER_LEFT = {"type": "signalling", "message": {"type": "peerLeft"}}


class Rtvi:
    """Answers `client-ready`, ends the call on `disconnect-bot`, keeps pings from the agent."""

    def __init__(self, session: Conversation) -> None:
        self._session = session

    def received(self, label: str, data: str | bytes) -> bool:
        if label != CHANNEL or isinstance(data, bytes):
            return False
        if data.startswith("ping:"):  # the ICE checks tell us of a client that has gone
            return True
        try:
            message = json.loads(data)
        except (ValueError, RecursionError):
            return False
        if not isinstance(message, dict):
            return False
        if message.get("type") == "signalling":  # a muted track sends silence, no more
            return True
        return message.get("label") == RTVI and self._rtvi(message)

    def leaving(self) -> None:
        self._send(_PEER_LEFT)

    def _rtvi(self, message: dict[str, Any]) -> bool:
        match message.get("type"):
            case "client-ready":
                data = {"version": RTVI_VERSION, "about": {"library": "voicerelay"}}
                self._send(
                    {"label": RTVI, "type": "bot-ready", "id": message.get("id"), "data": data}
                )
            case "disconnect-bot":
                self._session.end("the client let the agent go (disconnect-bot)")
            case _:
                return False
        return True

    def _send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(SessionClosed, ValueError):  # the channel has gone, or is full
            self._session.send_message(json.dumps(message), CHANNEL)
