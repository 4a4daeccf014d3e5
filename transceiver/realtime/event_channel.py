"""A call's `oai-events` channel: events are checked on the way in, and wait until it is open on the way out."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Final

from voicerelay.shm.counters import TransceiverCounter
from voicerelay.transceiver.agent import Session, SessionClosed
from voicerelay.transceiver.realtime.oai import (
    CHANNEL,
    MAX_EVENT_BYTES,
    BadEvent,
    Event,
    known_event,
    read_event,
    text_of_event,
)

MAX_HELD_EVENTS: Final = 64  # made before the client has opened the channel


class EventChannel:
    """Handles the channel of one call; `take` gets each event that a client may send."""

    def __init__(self, session: Session, take: Callable[[Event], None]) -> None:
        self._session = session
        self._take = take
        self._held: deque[Event] = deque()
        self._opened = asyncio.Event()
        session.handle_channel(CHANNEL, self)

    def send(self, event: Event) -> None:
        """To the client, and to the sideband; what cannot be sent is counted."""
        if not self._opened.is_set():
            if len(self._held) < MAX_HELD_EVENTS:
                self._held.append(event)
            else:
                self._drop(TransceiverCounter.EVENTS_DROPPED_NO_CHANNEL)
            return
        text = text_of_event(event)
        if len(text) > MAX_EVENT_BYTES:
            self._drop(TransceiverCounter.EVENTS_DROPPED_TOO_LARGE)
            return
        try:
            self._session.send_message(text, CHANNEL)
        except (ValueError, SessionClosed):
            self._drop(TransceiverCounter.EVENTS_DROPPED_CONGESTED)

    async def wait_open(self, timeout_s: float) -> None:
        """Until the client has opened the channel, and no longer than that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._opened.wait()

    # ---- from the session --------------------------------------------------------------------

    def opened(self) -> None:
        """The client, or the first sideband, is there."""
        self._opened.set()
        held, self._held = self._held, deque()
        for event in held:
            self.send(event)

    def received(self, data: str | bytes) -> None:
        """Anything may come; a bad event is answered with an `error`, and ends nothing."""
        try:
            self._take(known_event(read_event(data)))
        except BadEvent as exc:
            self._drop(TransceiverCounter.EVENTS_REFUSED)
            self.send(exc.event)

    def closed(self) -> None:
        """The call has ended."""
        self._drop(TransceiverCounter.EVENTS_DROPPED_NO_CHANNEL, len(self._held))
        self._held.clear()

    def _drop(self, reason: TransceiverCounter, by: int = 1) -> None:
        self._session._note(reason, by)
