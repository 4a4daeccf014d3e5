"""voicerelay: thousands of live WebRTC voice calls behind one UDP port."""

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
