"""bench/voice/stock.py that tells how late its frames are, by the same histogram that voicerelay has."""

import asyncio
import json
import sys
import time
from pathlib import Path

import uvloop
from av import AudioFrame

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[0] = str(ROOT)

from bench.voice import stock
from bench.voice.said import PACKET_S
from voicerelay.transceiver.voice.lateness import Lateness

TELL_S = 0.25
LATE_FILE = "late"

_lateness = Lateness(time.monotonic())


class Timed(stock.Fresh):
    """As it is handed to aiortc, so without the encoding that comes then: kind to stock."""

    async def recv(self) -> AudioFrame:
        frame = await super().recv()
        due = self._began + (self._given - 1) * PACKET_S
        _lateness.add(max(0.0, time.time() - due))
        return frame


async def tell(path: Path) -> None:
    """The p99 of the last seconds, in ms; whoever reads finds the newest."""
    while True:
        await asyncio.sleep(TELL_S)
        _lateness.advance(time.monotonic())
        path.write_text(f"{1000 * _lateness.percentile(0.99)}\n")  # noqa: ASYNC240 - of no weight


async def main() -> None:
    stock.Fresh = Timed  # type: ignore[misc]
    telling = asyncio.ensure_future(tell(Path(json.loads(sys.argv[1])["folder"]) / LATE_FILE))
    await stock.main()
    telling.cancel()


if __name__ == "__main__":
    uvloop.run(main())
