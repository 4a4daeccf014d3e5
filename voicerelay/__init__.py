"""voicerelay: thousands of live WebRTC voice calls behind one UDP port."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voicerelay.transceiver.affinity import unpin
    from voicerelay.transceiver.agent import (
        Agent,
        App,
        AppError,
        AudioPacket,
        ChannelHandler,
        Message,
        Request,
        Session,
        SessionClosed,
        Speech,
        Stats,
    )
    from voicerelay.transceiver.realtime.session import RealtimeSession

__all__ = [
    "Agent",
    "App",
    "AppError",
    "AudioPacket",
    "ChannelHandler",
    "Message",
    "RealtimeSession",
    "Request",
    "Session",
    "SessionClosed",
    "Speech",
    "Stats",
    "__version__",
    "unpin",
]
__version__ = "0.1.0"

_ROOMS = {
    "unpin": "voicerelay.transceiver.affinity",
    "RealtimeSession": "voicerelay.transceiver.realtime.session",
}


def __getattr__(name: str) -> object:
    """Public names are imported when they are asked for: a relay is replaced in half the time."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_ROOMS.get(name, "voicerelay.transceiver.agent")), name)
    globals()[name] = value
    return value
