"""Whether this transceiver takes new calls, and how long the running ones may go on when it does not."""

import logging
from collections.abc import Callable, Sized
from typing import Protocol

from voicerelay.shm.counters import Block, TransceiverCounter
from voicerelay.shm.order import DRAIN, OPEN, RETIRE, Order

END_REASON = "the server is drained, and its deadline has come"

log = logging.getLogger("voicerelay.transceiver")


class Calls(Protocol):
    """The calls of a transceiver, as far as a drain needs to know them."""

    draining: bool

    @property
    def sessions(self) -> int: ...

    def end_all(self, reason: str) -> Sized: ...


class Drain:
    """Obeys orders. `retired` is called when a transceiver that is to end has no call left.

    held: no new calls until the first order says so.
    """

    def __init__(
        self, calls: Calls, block: Block, retired: Callable[[], None], held: bool = False
    ) -> None:
        self._calls = calls
        self._block = block
        self._retired = retired
        self._deadline: float | None = None
        self._retiring = False
        self._close(held)

    def obey(self, order: Order, now: float) -> None:
        """Do as told; the latest order counts, but who is to retire is never opened again."""
        if order.what == OPEN and not self._retiring:
            self._deadline = None
            self._close(False)
        elif order.what in (DRAIN, RETIRE):
            self._retiring = self._retiring or order.what == RETIRE
            self._deadline = now + order.deadline_s
            self._close(True)
            log.info("no new calls; %d go on", self._calls.sessions)
        self.look(now)

    def look(self, now: float) -> None:
        """End the stragglers when their time has come, and the transceiver after the last call."""
        left = 0.0 if self._deadline is None else max(0.0, self._deadline - now)
        self._block.set(TransceiverCounter.DRAIN_LEFT_S, round(left))
        if self._deadline is not None and not left:
            self._deadline = None
            if stragglers := len(self._calls.end_all(END_REASON)):
                log.warning("%d calls ended by the deadline of the drain", stragglers)
                self._block.add(TransceiverCounter.STRAGGLERS_ENDED, stragglers)
                return  # their goodbyes leave before the next look
        if self._retiring and not self._calls.sessions:
            self._retired()

    def _close(self, draining: bool) -> None:
        self._calls.draining = draining
        self._block.set(TransceiverCounter.DRAINING, int(draining))
