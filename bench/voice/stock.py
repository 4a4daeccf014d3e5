"""Stock aiortc with the same signalling: `python stock.py JSON`; says "ready" and ends with its parent's line.

mode "echo": the frames of the received track, unchanged, into the sender. "fresh": 20 ms frames of 48 kHz
mono, made in time, while the received track is read (what Pipecat does). "ears": reads, and keeps what it read.
"""

import asyncio
import json
import secrets
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import aioice.ice
import numpy as np
import uvloop
from aiohttp import web
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack, MediaStreamError, MediaStreamTrack
from av import AudioFrame

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[0] = str(ROOT)

from bench.voice.said import CLIENT_RATE, PACKET_S, RATE, looped

FRAME = round(CLIENT_RATE * PACKET_S)


class Fresh(AudioStreamTrack):
    """The signal from somewhere on, paced as aiortc's own tracks are."""

    def __init__(self) -> None:
        super().__init__()
        self._at = FRAME * secrets.randbelow(500)
        self._began = 0.0
        self._given = 0

    async def recv(self) -> AudioFrame:
        if not self._given:
            self._began = time.time()
        wait = self._began + self._given * PACKET_S - time.time()
        if wait > 0:
            await asyncio.sleep(wait)
        pcm = looped(self._at + self._given * FRAME, FRAME, CLIENT_RATE)
        frame = AudioFrame.from_ndarray(pcm.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = CLIENT_RATE
        frame.time_base = Fraction(1, CLIENT_RATE)
        frame.pts = self._given * FRAME
        self._given += 1
        return frame


async def read(track: MediaStreamTrack, kept: list[tuple[float, Any]] | None) -> None:
    while True:
        try:
            frame = await track.recv()
        except MediaStreamError:
            return
        if kept is not None and isinstance(frame, AudioFrame):
            kept.append((time.monotonic(), frame.to_ndarray()))


def keep(path: Path, kept: list[tuple[float, Any]]) -> None:
    """In the form of agents.py: mono at RATE (of 48 kHz stereo every second sample)."""
    frames = [array.reshape(-1, 2)[:: CLIENT_RATE // RATE, 0] for _, array in kept]
    np.savez(path, times=np.array([at for at, _ in kept]), frames=np.array(frames))


class Stock:
    def __init__(self, mode: str, folder: str) -> None:
        self._mode = mode
        self._folder = Path(folder)
        self._calls: dict[str, RTCPeerConnection] = {}
        self._kept: dict[str, list[tuple[float, Any]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def answer(self, offer: str) -> tuple[str, str]:
        """The call's name, and the SDP of the answer."""
        name = secrets.token_urlsafe(16)
        pc = self._calls[name] = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        kept = self._kept.setdefault(name, []) if self._mode == "ears" else None

        @pc.on("track")
        def on_track(track: MediaStreamTrack) -> None:
            if self._mode == "echo":
                pc.addTrack(track)
            else:
                task = asyncio.ensure_future(read(track, kept))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                if self._mode == "fresh":
                    pc.addTrack(Fresh())

        await pc.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        await pc.setLocalDescription(await pc.createAnswer())
        return name, pc.localDescription.sdp

    async def hang_up(self, name: str) -> None:
        await self._calls.pop(name).close()
        if name in self._kept:
            keep(self._folder / name, self._kept.pop(name))

    async def post(self, request: web.Request) -> web.Response:
        name, sdp = await self.answer(await request.text())
        headers = {"Location": f"/whip/{name}"}
        return web.Response(status=201, text=sdp, content_type="application/sdp", headers=headers)

    async def delete(self, request: web.Request) -> web.Response:
        await self.hang_up(request.match_info["name"])
        return web.Response()


async def main() -> None:
    settings = json.loads(sys.argv[1])
    aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]  # loopback only
    looped(0, 1, CLIENT_RATE)
    stock = Stock(settings["mode"], settings["folder"])
    app = web.Application()
    app.router.add_post("/whip", stock.post)
    app.router.add_delete("/whip/{name}", stock.delete)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", settings["port"]).start()
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


if __name__ == "__main__":
    uvloop.run(main())
