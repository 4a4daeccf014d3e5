"""What a call costs that is bridged to a Realtime backend: `python bench/bridge.py [--write]`.

Two real servers with one transceiver each, side by side. The same calls, talking and being talked to all the time,
with a Python agent that hears and says PCM at 24 kHz, and with `--backend`. CPU time of the transceivers.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp
import psutil
from aiohttp import WSMsgType, web

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.lean import Caller, LeanCall
from tests.support.server import Server, server
from tests.support.voices import payloads, speech
from voicerelay.cli.status import read_status

RESULTS = ROOT / "bench" / "results" / "bridge.json"
RATE = 24_000
DELTA_MS = 200
FRAME_S = 0.02
SETTLE_S = 1.0
SOUND = speech(10.0, RATE)


class Talker(LeanCall):
    """Says real speech every 20 ms; hears and forgets."""

    voice: Sequence[bytes] = ()

    def speak(self, number: int) -> None:
        assert self._tx is not None
        head = b"\x80\x6f" + (number & 0xFFFF).to_bytes(2, "big")
        head += (number * 960 & 0xFFFFFFFF).to_bytes(4, "big") + b"lean"
        self._send(self._tx.protect(head + self.voice[number % len(self.voice)]))
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(2048)


@contextlib.asynccontextmanager
async def backend() -> AsyncIterator[str]:
    """Talks without end, at the pace of speech, and takes whatever it is sent."""
    pcm = SOUND.astype("<i2").tobytes()
    size = RATE * 2 * DELTA_MS // 1000
    deltas = [base64.b64encode(pcm[at : at + size]).decode() for at in range(0, len(pcm), size)]

    async def talk(socket: web.WebSocketResponse) -> None:
        start = time.monotonic()
        for number in range(1 << 30):
            where = {"response_id": "r", "item_id": "i", "content_index": 0}
            event = {"type": "response.output_audio.delta", "delta": deltas[number % len(deltas)]}
            await socket.send_json(event | where)
            await asyncio.sleep(max(0.0, start + number * DELTA_MS / 1000 - time.monotonic()))

    async def connect(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        talking = asyncio.ensure_future(talk(socket))
        try:
            async for message in socket:
                assert message.type is WSMsgType.TEXT
        finally:
            talking.cancel()
        return socket

    app = web.Application()
    app.router.add_get("/v1/realtime", connect)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"ws://127.0.0.1:{runner.addresses[0][1]}/v1/realtime"
    finally:
        await runner.cleanup()


async def costs_us(servers: list[Server], calls: int, seconds: float) -> list[float]:
    """µs of each transceiver's CPU for 20 ms of one call, all at the same time: a busy machine is so for all."""
    processes = [psutil.Process(read_status(s.run_dir)["transceivers"][0]["pid"]) for s in servers]
    async with aiohttp.ClientSession() as http:
        talkers = [Talker(Caller(s.http_url)) for s in servers for _ in range(calls)]
        for talker in talkers:
            await talker.connect(http)
        settle = round(SETTLE_S / FRAME_S)
        turns = round(seconds / FRAME_S)
        before: list[float] = []
        start = time.monotonic()
        for turn in range(settle + turns):
            if turn == settle:
                before = [sum(process.cpu_times()[:2]) for process in processes]
            for talker in talkers:
                talker.speak(turn + 2)  # the first was in its set-up
            await asyncio.sleep(max(0.0, start + turn * FRAME_S - time.monotonic()))
        after = [sum(process.cpu_times()[:2]) for process in processes]
        for talker in talkers:
            await talker.hang_up(http)
    return [(b - a) * 1e6 / (turns * calls) for a, b in zip(before, after, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=10, help="with each")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--write", action="store_true", help="keep the figures")
    given = parser.parse_args()
    Talker.voice = payloads(SOUND, RATE)

    async def run() -> list[float]:
        async with backend() as url:
            with (
                server(relays=1, transceivers=1, app="tests.support.pcm_echo:app") as one,
                server(relays=1, transceivers=1, extra=["--backend", url]) as other,
            ):
                return await costs_us([one, other], given.calls, given.seconds)

    agent, bridged = asyncio.run(run())
    print(f"{given.calls} calls each, CPU of the transceiver for 20 ms of a call, both talking:")
    print(f"  Python agent, PCM both ways  {agent:6.0f} µs")
    print(f"  bridged to a backend         {bridged:6.0f} µs   {bridged / agent:.2f} times")
    if given.write:
        kept = {"calls": given.calls, "seconds": given.seconds}
        figures = {"agent_us": round(agent), "bridged_us": round(bridged)}
        RESULTS.write_text(json.dumps(kept | figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
