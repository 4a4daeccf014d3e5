"""Whose the records of a table are. What a dead transceiver owned is void at once and removed little by little."""

from collections.abc import Callable, Iterable

from voicerelay.shm.table import PROGRESS_RECORDS, Entry, TableFull, TableWriter

Owner = tuple[int, int]  # transceiver slot, generation


class Records:
    """One table and the keys of every owner in it.

    Each key is in one set: claimed (its transceiver told us), unclaimed (found at control's start,
    until its transceiver replays it), or void (its transceiver is gone, or did not replay it).
    A void record stands in the table until it is swept away or its place is needed. It leads
    nowhere meanwhile: its generation is never given again, so nobody answers to it.
    """

    def __init__(self, table: TableWriter, progress: Callable[[], None] = lambda: None) -> None:
        self.table = table
        self._claimed: dict[Owner, set[bytes]] = {}
        self._unclaimed: dict[Owner, set[bytes]] = {}
        self._void: dict[Owner, set[bytes]] = {}
        for number, (key, entry) in enumerate(table.items()):
            keys = self._unclaimed.get(entry.owner)
            if keys is None:
                keys = self._unclaimed[entry.owner] = set()
            keys.add(key)
            if not number % PROGRESS_RECORDS:
                progress()

    def __len__(self) -> int:
        """How many are not void."""
        return len(self.table) - self.void

    @property
    def void(self) -> int:
        """How many wait for their removal."""
        return sum(map(len, self._void.values()))

    def holder(self, key: bytes) -> Entry | None:
        """The entry of a key that leads somewhere; None when it is free for anybody."""
        held = self.table.find(key)
        return None if held is None or key in self._void.get(held.owner, ()) else held

    def put(self, key: bytes, entry: Entry) -> None:
        """Write or overwrite; the key is its new owner's from now on. Raises TableFull."""
        held = self.table.find(key)
        try:
            self.table.put(key, entry)
        except TableFull:
            if not self.sweep(1):
                raise
            self.table.put(key, entry)
        if held is not None:
            for keys in (self._claimed, self._unclaimed, self._void):
                if held.owner in keys:
                    keys[held.owner].discard(key)
        self._claimed.setdefault(entry.owner, set()).add(key)

    def remove(self, owner: Owner, key: bytes, session: int | None = None) -> None:
        """Remove a record if it is this owner's (and this session's)."""
        held = self.holder(key)
        if held is None or held.owner != owner or session not in (None, held.session):
            return
        self.table.remove(key)
        for keys in (self._claimed, self._unclaimed):
            if owner in keys:
                keys[owner].discard(key)

    def void_owner(self, owner: Owner) -> None:
        """Its transceiver is gone, and with it all its records."""
        self._make_void(owner, self._claimed.pop(owner, set()))
        self.void_unclaimed(owner)

    def void_unclaimed(self, owner: Owner) -> None:
        """Its transceiver has said all that it owns; anything else is stale."""
        self._make_void(owner, self._unclaimed.pop(owner, set()))

    def unclaimed_but_by(self, living: Iterable[Owner]) -> set[Owner]:
        """Owners of unclaimed records that are not among `living`."""
        return self._unclaimed.keys() - set(living)

    def sweep(self, limit: int) -> int:
        """Remove up to `limit` void records; returns how many were removed."""
        removed = 0
        for owner in list(self._void):
            keys = self._void[owner]
            while keys and removed < limit:
                self.table.remove(keys.pop())
                removed += 1
            if not keys:
                del self._void[owner]
        return removed

    def _make_void(self, owner: Owner, keys: set[bytes]) -> None:
        if not keys:
            return
        fewer, more = sorted((keys, self._void.get(owner, set())), key=len)
        more |= fewer
        self._void[owner] = more
