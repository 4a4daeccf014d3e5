"""How long a lost backend is tried again. Pure: `now` is an argument."""

from typing import Final

RECONNECT_S: Final = 3.0  # of trying, each time the connection is lost
FIRST_WAIT_S: Final = 0.05  # then twice as long each time
LAST_WAIT_S: Final = 0.4
MAX_RECONNECTS: Final = 5  # in one call


class Patience:
    """One call's."""

    def __init__(self) -> None:
        self._times = 0
        self._until = 0.0
        self._wait_s = FIRST_WAIT_S

    def begin(self, now: float) -> None:
        """The connection was lost."""
        self._times += 1
        self._until = now + RECONNECT_S
        self._wait_s = FIRST_WAIT_S

    def next_wait_s(self, now: float) -> float | None:
        """Seconds before the next attempt; None: give up."""
        if self._times > MAX_RECONNECTS or now + self._wait_s > self._until:
            return None
        wait_s, self._wait_s = self._wait_s, min(self._wait_s * 2, LAST_WAIT_S)
        return wait_s
