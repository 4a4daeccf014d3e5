"""voicerelay: thousands of live WebRTC voice calls behind one UDP port."""

from voicerelay.transceiver.agent import Agent, App, AppError, AudioPacket, Session

__all__ = ["Agent", "App", "AppError", "AudioPacket", "Session", "__version__"]
__version__ = "0.1.0"
