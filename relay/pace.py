"""When to wait for more packets before reading again: at everyday load the wake-up costs more than the packet."""

DEFAULT_COALESCE_S = 300e-6  # 1.5 % of a voice frame
MAX_COALESCE_S = 5e-3  # a quarter of a voice frame
WEIGHT = 0.25  # of the newest look in the average rate
IDLE_WAITS = 10.0  # a pause of so many waits: what was before says nothing any more


class Pace:
    """Estimates the packet rate and says whether waiting will bring another packet.

    The packets that woke the relay are forwarded before any wait, so a lone packet never waits.
    """

    def __init__(self, coalesce_s: float) -> None:
        self.coalesce_s = coalesce_s
        self._rate = 0.0  # packets/s
        self._looked_at = 0.0

    def worth_waiting(self, drained: int, now: float) -> bool:
        """After a drain of `drained` packets at `now` (monotonic s): wait, then drain again?"""
        elapsed = now - self._looked_at
        self._looked_at = now
        if not self.coalesce_s:
            return False
        rate = drained / max(elapsed, 1e-6)
        fresh = 1.0 if elapsed > IDLE_WAITS * self.coalesce_s else WEIGHT
        self._rate += fresh * (rate - self._rate)
        return self._rate * self.coalesce_s >= 1.0
