"""A caller with stock aiortc tracks: offers by JSON, hums a tone and keeps the PCM that comes back."""

import asyncio
from typing import Any

import aiohttp
import numpy as np
import numpy.typing as npt
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack, MediaStreamError, MediaStreamTrack
from av import AudioFrame

from tests.support.tones import RATE, dominant_hz

TONE_HZ = 440.0
LEVEL = 8000
PATIENCE_S = 20.0


class Tone(AudioStreamTrack):
    """440 Hz, 8 kHz mono, as aiortc's own silent track paces it."""

    _played = 0

    async def recv(self) -> AudioFrame:
        frame: Any = await super().recv()
        moments = (np.arange(frame.samples) + self._played) / frame.sample_rate
        self._played += frame.samples
        pcm = (np.sin(2 * np.pi * TONE_HZ * moments) * LEVEL).astype("<i2")
        frame.planes[0].update(pcm.tobytes())
        return frame  # type: ignore[no-any-return]


class ToneCall:
    """One call by a JSON contract: {"sdp", "type", …} -> {"sdp", "type", …}."""

    def __init__(self, url: str, **more: Any) -> None:
        self.url = url
        self.more = more
        self.answer: dict[str, Any] = {}
        self.status = 0
        self.headers: dict[str, str] = {}
        self.heard: list[npt.NDArray[np.int16]] = []
        self.connected = asyncio.Event()
        self.over = asyncio.Event()
        self.pc = RTCPeerConnection(RTCConfiguration([]))
        self.pc.addTrack(Tone())
        self.channel = self.pc.createDataChannel("chat")
        self._listening: asyncio.Task[None] | None = None
        self._heard_more = asyncio.Event()
        self.pc.on("track", self._on_track)
        self.pc.on("connectionstatechange", self._on_state)

    async def connect(self, http: aiohttp.ClientSession) -> None:
        """Offer and answer; a refusal leaves `answer` without sdp."""
        await self.pc.setLocalDescription(await self.pc.createOffer())
        offer = {"sdp": self.pc.localDescription.sdp, "type": "offer", **self.more}
        async with http.post(self.url, json=offer) as response:
            self.status, self.headers = response.status, dict(response.headers)
            self.answer = await response.json()
        if "sdp" in self.answer:
            await self.pc.setRemoteDescription(
                RTCSessionDescription(self.answer["sdp"], self.answer["type"])
            )

    async def hears_tone(self, seconds: float = 1.0) -> bool:
        """Wait until the tone has come back for so long; False when something else has."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                newest = self.pcm()[-round(seconds * RATE) :]
                if len(newest) >= seconds * RATE and abs(dominant_hz(newest) - TONE_HZ) < 2:
                    return bool(np.abs(newest).max() > LEVEL / 4)
                self._heard_more.clear()
                await self._heard_more.wait()

    def pcm(self) -> npt.NDArray[np.int16]:
        """Everything that has come back, 48 kHz mono."""
        return np.concatenate(self.heard) if self.heard else np.empty(0, np.int16)

    async def close(self) -> None:
        await self.pc.close()
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)

    def _on_track(self, track: MediaStreamTrack) -> None:
        self._listening = asyncio.ensure_future(self._listen(track))

    def _on_state(self) -> None:
        if self.pc.connectionState in ("failed", "closed"):
            self.over.set()
        elif self.pc.connectionState == "connected":
            self.connected.set()

    async def _listen(self, track: MediaStreamTrack) -> None:
        while True:
            try:
                frame: Any = await track.recv()
            except MediaStreamError:
                return
            self.heard.append(frame.to_ndarray().reshape(-1, 2)[:, 0])
            self._heard_more.set()
