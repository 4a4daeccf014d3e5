"""When to look for garbage that reference counts do not find: a full look stops every voice while it lasts.

It takes 0.1 s and more for hundreds of calls, so it waits for a moment without any. Our own calls leave nothing
to it; an agent's code may, on a host that is never without a call, and then memory must not grow for ever.
"""

import gc
import sys
from typing import Final

THRESHOLDS: Final = 10_000, 20, 1_000  # young objects often, old ones by us alone
COLLECT_S: Final = 60.0
MAX_GROWTH: Final = (
    2.0  # of allocated blocks since the latest full look: beyond, voices have to bear it
)
MIN_BLOCKS: Final = 1_000_000  # three times those of a process without calls
PATIENCE_S: Final = 600.0  # between two looks that voices have to bear


class Collector:
    """Decides; `blocks`: sys.getallocatedblocks() at the latest full look."""

    def __init__(self, now: float, blocks: int) -> None:
        self._looked_at = now
        self._blocks = blocks

    def due(self, now: float, calls: int, blocks: int) -> bool:
        """Whether to look now."""
        grown = blocks > max(MIN_BLOCKS, MAX_GROWTH * self._blocks)
        return not calls or (grown and now - self._looked_at >= PATIENCE_S)

    def looked(self, now: float, blocks: int) -> None:
        """What is left after a full look."""
        self._looked_at, self._blocks = now, blocks

    def look(self, now: float, calls: int) -> None:
        """A full look, if one is due."""
        if self.due(now, calls, sys.getallocatedblocks()):
            gc.collect()
            self.looked(now, sys.getallocatedblocks())
