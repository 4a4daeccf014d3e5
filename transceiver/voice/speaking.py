"""What an agent says: waits for room, is paced, is counted. One of the pacer's speakers."""

import asyncio
import time
from typing import Any, Protocol

from voicerelay.transceiver.agent import SessionClosed
from voicerelay.transceiver.voice.outbound import Outbound
from voicerelay.transceiver.voice.pacer import Pacer
from voicerelay.transceiver.voice.pcm import PcmLike, as_pcm


class Carrier(Protocol):
    """What carries the voice of a call."""

    def send_frame(self, payload: bytes, due: float) -> None:
        """Send 20 ms of Opus."""

    def end(self, reason: str) -> None:
        """End the call."""


class Speaking:
    """One call's."""

    def __init__(self, short_id: str, pacer: Pacer, carrier: Carrier) -> None:
        self._short_id = short_id
        self._pacer = pacer
        self._carrier: Carrier | None = carrier  # until the end
        self._waiters: set[asyncio.Future[None]] = set()
        self._closed = False
        self._said_ms = 0  # of the utterance that the end of the call has cut
        self.outbound = Outbound(self._changed)

    async def play(self, pcm: PcmLike, rate: int) -> None:
        """See Session.play."""
        samples = as_pcm(pcm, rate)
        interrupts = self.outbound.interrupts
        while True:
            if self._closed:
                raise SessionClosed("the call has ended")
            taken = self.outbound.write(samples, rate, time.monotonic())
            self._pacer.add(self)
            samples = samples[taken:]
            if not len(samples):
                return
            await self._change()
            if self.outbound.interrupts != interrupts and not self._closed:
                return

    def interrupt(self) -> int:
        """See Session.interrupt; after the end what was said of the utterance it has cut."""
        return self._said_ms if self._closed else self.outbound.interrupt()

    async def drain(self) -> None:
        """See Session.drain."""
        while not self.outbound.dry and not self._closed:
            await self._change()
        self.outbound.end_utterance()

    def close(self) -> None:
        """The call has ended: nothing waits any more."""
        self._closed = True
        self._pacer.remove(self)
        self._said_ms = self.outbound.close()
        self._carrier = None

    # ---- for the pacer -----------------------------------------------------------------------

    @property
    def short_id(self) -> str:
        return self._short_id

    @property
    def mouth(self) -> Any:
        return self.outbound.mouth

    def wake(self) -> None:
        self.outbound.wake()

    def encode(self, due: float, load: int) -> bytes | None:
        return self.outbound.next_frame(due, load)

    def send(self, payload: bytes, due: float) -> None:
        if self._carrier is not None:
            self._carrier.send_frame(payload, due)

    def end(self, reason: str) -> None:
        if self._carrier is not None:
            self._carrier.end(reason)

    # ---- waiting -----------------------------------------------------------------------------

    async def _change(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def _changed(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
