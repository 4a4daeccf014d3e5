"""A shared-memory hash table: one writer, lock-free readers, a sequence number per 64-byte record.

Open addressing with linear probing. A removal moves later records back (no tombstones, so look-ups stay
flat for ever) and makes the table's epoch odd meanwhile; a reader that misses looks again if the epoch moved.
Stores are seen in program order, which x86-64 guarantees.
"""

import ctypes
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

KEY_BYTES = 20
RECORD_BYTES = 64
MAX_PROBE = 256  # records looked at before a key counts as absent
READ_RETRIES = 4
PROGRESS_RECORDS = 1 << 15  # scanned between two signs of life
EMPTY, USED, DEAD = 0, 1, 2  # DEAD: found broken, being repaired

# seq, generation, slot, state, session, seen (ms, monotonic), key
_RECORD = struct.Struct("<IIHBxIQ20s20x")
_BODY = struct.Struct("<IHBxIQ20s20x")
_U32 = struct.Struct("<I")
_STATE_AT = 10
assert _RECORD.size == RECORD_BYTES


class TableFull(Exception):
    """No room for another record; the new session must be refused."""


class Entry(NamedTuple):
    """Where a key leads: transceiver slot and its generation, session number, last refresh (ms)."""

    slot: int
    generation: int
    session: int
    seen_ms: int

    @property
    def owner(self) -> tuple[int, int]:
        """Slot and generation: whose the record is."""
        return self[:2]


_NO_ENTRY = Entry(0, 0, 0, 0)


class TablePlace(NamedTuple):
    """Addresses of a table's records and epoch in this process, and what a search needs."""

    records: int
    epoch: int
    mask: int
    max_probe: int


def home_of(key: bytes, mask: int) -> int:
    """Index at which the search for `key` begins."""
    return zlib.crc32(key) & mask


class Mirror(Protocol):
    """Something that must hold what a table holds (the maps of kernel steering)."""

    def put(self, key: bytes, entry: Entry) -> None: ...

    def remove(self, key: bytes) -> None: ...


class TableReader:
    """Look-ups by any process. `records` holds a power of two of records; `epoch` is 4 bytes."""

    def __init__(self, records: memoryview, epoch: memoryview) -> None:
        self._records = records
        self._epoch = epoch
        self.sequences = records.cast("I")
        self._mask = len(records) // RECORD_BYTES - 1
        self._max_probe = min(MAX_PROBE, self._mask + 1)

    def place(self) -> "TablePlace":
        """Where the table lies, for a reader in C; holds as long as nobody calls `release`."""
        records, epoch = (
            ctypes.addressof(ctypes.c_char.from_buffer(view))
            for view in (self._records, self._epoch)
        )
        return TablePlace(records, epoch, self._mask, self._max_probe)

    def release(self) -> None:
        """Let go of the memory; nothing can be read any more."""
        for view in (self.sequences, self._records, self._epoch):
            view.release()

    def find(self, key: bytes) -> Entry | None:
        """The entry of a key, or None."""
        found = self.locate(key)
        return found[2] if found else None

    def locate(self, key: bytes) -> tuple[int, int, Entry] | None:
        """Place, sequence number and entry of a key.

        The entry holds while `sequences[place]` is that sequence number.
        """
        for _ in range(READ_RETRIES):
            before = _U32.unpack_from(self._epoch)[0]
            found = self._search(key)
            if found:
                return found
            if not before & 1 and _U32.unpack_from(self._epoch)[0] == before:
                return None
        return None

    def _search(self, key: bytes) -> tuple[int, int, Entry] | None:
        mask = self._mask
        index = zlib.crc32(key) & mask
        for _ in range(self._max_probe):
            offset = index * RECORD_BYTES
            read = self._read(offset)
            if read is not None:
                sequence, generation, slot, state, session, seen, found = read
                if state == EMPTY:
                    return None
                if found == key:
                    return offset // 4, sequence, Entry(slot, generation, session, seen)
            index = (index + 1) & mask
        return None

    def _read(self, offset: int) -> tuple[int, int, int, int, int, int, bytes] | None:
        """A consistent record; None when it stays half-written (its writer died there)."""
        for _ in range(READ_RETRIES):
            read: tuple[int, int, int, int, int, int, bytes] = _RECORD.unpack_from(
                self._records, offset
            )
            if not read[0] & 1 and _U32.unpack_from(self._records, offset)[0] == read[0]:
                return read
        return None


class TableWriter(TableReader):
    """The one writer. Keeps key -> index beside the table and repairs what a killed writer left."""

    def __init__(
        self,
        records: memoryview,
        epoch: memoryview,
        capacity: int,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(records, epoch)
        if capacity * 2 > self._mask + 1:
            raise ValueError("a table holds at most half as many keys as records")
        self.capacity = capacity
        self.mirror: Mirror | None = None
        self._index: dict[bytes, int] = {}
        self.repaired = self._repair(progress)

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, key: bytes) -> bool:
        return key in self._index

    def items(self) -> Iterator[tuple[bytes, Entry]]:
        """Every key and entry, in no order; do not write meanwhile."""
        for key, index in self._index.items():
            _, generation, slot, _, session, seen, _ = _RECORD.unpack_from(
                self._records, index * RECORD_BYTES
            )
            yield key, Entry(slot, generation, session, seen)

    def put(self, key: bytes, entry: Entry) -> None:
        """Write or overwrite. Raises TableFull, and ValueError for a key of another length."""
        if len(key) != KEY_BYTES:
            raise ValueError("key length")
        index = self._index.get(key)
        if index is None:
            if len(self._index) >= self.capacity:
                raise TableFull
            index = self._free_index(key)
            self._index[key] = index
        self._write(index, USED, entry, key)
        if self.mirror is not None:
            self.mirror.put(key, entry)

    def remove(self, key: bytes) -> bool:
        """Forget a key; False when it was not there."""
        index = self._index.pop(key, None)
        if index is None:
            return False
        self._close_gap(index)
        if self.mirror is not None:
            self.mirror.remove(key)
        return True

    def _free_index(self, key: bytes) -> int:
        index = home_of(key, self._mask)
        for _ in range(self._max_probe):
            if self._records[index * RECORD_BYTES + _STATE_AT] == EMPTY:
                return index
            index = (index + 1) & self._mask
        raise TableFull

    def _write(self, index: int, state: int, entry: Entry, key: bytes) -> None:
        offset = index * RECORD_BYTES
        sequence = _U32.unpack_from(self._records, offset)[0] | 1
        _U32.pack_into(self._records, offset, sequence)
        _BODY.pack_into(
            self._records,
            offset + 4,
            entry.generation,
            entry.slot,
            state,
            entry.session,
            entry.seen_ms,
            key,
        )
        _U32.pack_into(self._records, offset, (sequence + 1) & 0xFFFFFFFF)

    def _close_gap(self, gap: int) -> None:
        """Backward-shift deletion: every record stays reachable from its home at every instant."""
        self._move_epoch()
        index = gap
        for _ in range(self._mask):
            index = (index + 1) & self._mask
            _, generation, slot, state, session, seen, key = _RECORD.unpack_from(
                self._records, index * RECORD_BYTES
            )
            if state == EMPTY:
                break
            home = home_of(key, self._mask)
            if state == USED and (index - home) & self._mask >= (index - gap) & self._mask:
                self._write(gap, USED, Entry(slot, generation, session, seen), key)
                self._index[key] = gap
                gap = index
        self._write(gap, EMPTY, _NO_ENTRY, bytes(KEY_BYTES))
        self._move_epoch()

    def _move_epoch(self) -> None:
        _U32.pack_into(self._epoch, 0, (_U32.unpack_from(self._epoch)[0] + 1) & 0xFFFFFFFF)

    def _repair(self, progress: Callable[[], None]) -> int:
        """Index what is sound; empty half-written records and second copies. Returns how many.

        `progress` is called now and then: a large table takes seconds.
        """
        if _U32.unpack_from(self._epoch)[0] & 1:
            self._move_epoch()
        broken = []
        for index, record in enumerate(_RECORD.iter_unpack(self._records)):
            sequence, _, _, state, _, _, key = record
            if not index % PROGRESS_RECORDS:
                progress()
            if not sequence & 1 and state == EMPTY:
                continue
            if sequence & 1 or state != USED or key in self._index:
                self._write(index, DEAD, _NO_ENTRY, bytes(KEY_BYTES))
                broken.append(index)
            else:
                self._index[key] = index
        for index in broken:
            self._close_gap(index)
        return len(broken)
