"""For apps that use aiortc themselves, such as Pipecat's and FastRTC's: `voicerelay.aiortc.install()`."""

from voicerelay.transceiver.stock_seam import OffersAreNotOurs, install, outbound

__all__ = ["OffersAreNotOurs", "install", "outbound"]
