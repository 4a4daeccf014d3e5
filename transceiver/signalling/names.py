"""Our calls' names in the route table: siblings find a call by them, and a cap counts them on the whole host."""

import random
from typing import Protocol

from voicerelay.shm.table import Entry
from voicerelay.transceiver.directory import Directory, DirectoryError
from voicerelay.transceiver.signalling.owners import owner_key, place_key

_NO_SESSION = 0  # the transceiver is what counts


class Routes(Protocol):
    """What is used of the route table's reader."""

    def find(self, key: bytes) -> Entry | None: ...


class CapReached(Exception):
    """The caller has as many sessions as it may have."""


class Names:
    """Keys that this transceiver holds; they end with it, and control replays them."""

    def __init__(self, routes: Routes, directory: Directory) -> None:
        self._routes = routes
        self._directory = directory
        self._held: set[bytes] = set()

    def owner(self, name: str) -> int | None:
        """The slot of the call with this name."""
        entry = self._routes.find(owner_key(name))
        return None if entry is None else entry.slot

    async def claim(self, name: str) -> bytes:
        """The key by which siblings find a call of this name. Raises DirectoryError."""
        key = owner_key(name)
        if key in self._held:
            raise DirectoryError("the name is another call's")
        await self._hold(key)
        return key

    async def place(self, who: str, most: int) -> bytes:
        """One of the `most` places that a caller has on this host. Raises CapReached or DirectoryError.

        Control gives a key to one transceiver only, so no two can count past the cap.
        """
        first = random.randrange(most)
        for index in range(most):
            key = place_key(who, (first + index) % most)
            if key in self._held or self._routes.find(key) is not None:
                continue
            try:
                await self._hold(key)
            except DirectoryError:
                if self._routes.find(key) is None:
                    raise
                continue  # a sibling was quicker
            return key
        raise CapReached

    def give_up(self, key: bytes) -> None:
        if key in self._held:
            self._held.discard(key)
            self._directory.unregister(key)

    async def _hold(self, key: bytes) -> None:
        self._held.add(key)  # before control answers, so that nobody here takes it too
        try:
            await self._directory.register(key, _NO_SESSION)
        except BaseException:
            self._held.discard(key)
            raise
