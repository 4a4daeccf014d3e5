"""The shared-memory segments of one running instance: created by control, checked by everybody who attaches."""

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import TypeVar

from voicerelay.shm.counters import COUNTERS_BYTES, Counters
from voicerelay.shm.table import RECORD_BYTES, TableReader, TableWriter

ABI = 1
MAGIC = b"VOICERLY"
HEADER_BYTES = 256
INSTANCE_BYTES = 16
CLUSTER_KEY_BYTES = 32
FLOWS_PER_SESSION = 2  # a browser's usual paths: one per address family
MIN_CAPACITY = 16  # sessions
MAX_CAPACITY = 1_000_000  # sessions
DEFAULT_CAPACITY = 16_384  # sessions

# magic, abi, header bytes, boot id, instance, cluster key, route records, flow records, capacity
_HEADER = struct.Struct("<8sII16s16s32sIII")
_ROUTES_EPOCH_AT, _FLOWS_EPOCH_AT, _GENERATION_AT = 128, 132, 136
_U32 = struct.Struct("<I")
_PAGE_BYTES = 4096
Table = TypeVar("Table", bound=TableReader)
_SHM_DIR = Path("/dev/shm")


class RegionMismatch(Exception):
    """The segment is not one that this process may use; the message says why."""


class RegionSpaceError(Exception):
    """Shared memory has no room for the tables."""


def boot_id() -> bytes:
    """16 bytes that change with every boot of the host."""
    text = Path("/proc/sys/kernel/random/boot_id").read_text()
    return bytes.fromhex(text.strip().replace("-", ""))


def power_of_two(at_least: int) -> int:
    """The smallest power of two that is not below `at_least`."""
    return 1 << (at_least - 1).bit_length()


@dataclass(frozen=True)
class Sizes:
    """Records of each table; always a power of two and at least twice the keys."""

    capacity: int
    routes: int
    flows: int

    @classmethod
    def for_capacity(cls, sessions: int) -> "Sizes":
        """Room for `sessions` calls, each with one route (two during an ICE restart) and its flows."""
        if not MIN_CAPACITY <= sessions <= MAX_CAPACITY:
            raise ValueError(f"capacity must be {MIN_CAPACITY} to {MAX_CAPACITY} sessions")
        return cls(
            sessions,
            power_of_two(2 * sessions),
            power_of_two(2 * FLOWS_PER_SESSION * sessions),
        )

    @property
    def total_bytes(self) -> int:
        return HEADER_BYTES + (self.routes + self.flows) * RECORD_BYTES


class Region:
    """The tables segment and the counters segment of one instance.

    The tables have one writer (control, which creates the region); others attach and get readers.
    Counters are written by each process in its own block.
    """

    def __init__(self, name: str, tables: mmap, counters: mmap) -> None:
        self.name = name
        self._tables = tables
        self._counters = counters
        self._buffer = memoryview(tables)
        self._in_use: list[TableReader] = []
        header = _HEADER.unpack_from(self._buffer)
        self.instance: bytes = header[4]
        self.cluster_key: bytes = header[5]
        self.sizes = Sizes(header[8], header[6], header[7])
        self.counters = Counters(memoryview(counters))
        # Touch every page now: a flood of unknown keys must not grow anybody's memory later.
        self.touched = len(bytes(self._buffer[::_PAGE_BYTES]))

    @classmethod
    def create(cls, name: str, instance: bytes, sizes: Sizes) -> "Region":
        """A new region under `name`; whatever stood there before is replaced, never trusted."""
        remove_segments(name)
        _check_space(sizes.total_bytes + COUNTERS_BYTES)
        tables = _open(_tables_name(name), sizes.total_bytes)
        counters = _open(_counters_name(name), COUNTERS_BYTES)
        key = os.urandom(CLUSTER_KEY_BYTES)
        header = (ABI, HEADER_BYTES, boot_id(), instance, key, sizes.routes, sizes.flows)
        _HEADER.pack_into(tables, 0, b"", *header, sizes.capacity)
        tables[: len(MAGIC)] = MAGIC  # last: a region without it is not finished
        return cls(name, tables, counters)

    @classmethod
    def attach(cls, name: str, instance: bytes | None = None) -> "Region":
        """An existing region. Raises RegionMismatch when it is missing or not of this kind.

        `instance`: the one expected; None accepts any (for `status`).
        """
        try:
            tables = _open(_tables_name(name))
        except (FileNotFoundError, ValueError) as exc:
            raise RegionMismatch("there is no such shared memory") from exc
        reason = _mismatch(tables, instance)
        if reason:
            tables.close()
            raise RegionMismatch(reason)
        try:
            counters = _open(_counters_name(name))
        except (FileNotFoundError, ValueError) as exc:
            tables.close()
            raise RegionMismatch("its counters are missing") from exc
        if len(counters) < COUNTERS_BYTES:
            tables.close()
            counters.close()
            raise RegionMismatch("its counters are of another size")
        return cls(name, tables, counters)

    def route_reader(self) -> TableReader:
        """ufrag -> transceiver slot, generation, session."""
        return self._keep(TableReader(*self._route_views()))

    def flow_reader(self) -> TableReader:
        """Client path -> transceiver slot, generation, session."""
        return self._keep(TableReader(*self._flow_views()))

    def route_writer(self, progress: Callable[[], None] = lambda: None) -> TableWriter:
        writer = TableWriter(*self._route_views(), self.sizes.routes // 2, progress)
        return self._keep(writer)

    def flow_writer(self, progress: Callable[[], None] = lambda: None) -> TableWriter:
        writer = TableWriter(*self._flow_views(), self.sizes.flows // 2, progress)
        return self._keep(writer)

    def next_generation(self) -> int:
        """A number no transceiver of this instance had before (control only)."""
        generation: int = _U32.unpack_from(self._buffer, _GENERATION_AT)[0] + 1
        _U32.pack_into(self._buffer, _GENERATION_AT, generation)
        return generation

    def close(self) -> None:
        """Detach; the segments stay."""
        self.counters.release()
        for table in self._in_use:
            table.release()
        self._buffer.release()
        self._tables.close()
        self._counters.close()

    def _keep(self, table: Table) -> Table:
        self._in_use.append(table)
        return table

    def _route_views(self) -> tuple[memoryview, memoryview]:
        return self._table_views(HEADER_BYTES, self.sizes.routes, _ROUTES_EPOCH_AT)

    def _flow_views(self) -> tuple[memoryview, memoryview]:
        start = HEADER_BYTES + self.sizes.routes * RECORD_BYTES
        return self._table_views(start, self.sizes.flows, _FLOWS_EPOCH_AT)

    def _table_views(self, start: int, records: int, epoch: int) -> tuple[memoryview, memoryview]:
        buffer = self._buffer
        return buffer[start : start + records * RECORD_BYTES], buffer[epoch : epoch + 4]


def remove_segments(name: str) -> bool:
    """Unlink the segments of a name, whoever left them; True when there were any."""
    removed = False
    for segment in (_tables_name(name), _counters_name(name)):
        try:
            (_SHM_DIR / segment).unlink()
            removed = True
        except FileNotFoundError:
            continue
    return removed


def segment_inode(name: str) -> int:
    """Changes when another region takes the name. Raises OSError when there is none."""
    return (_SHM_DIR / _tables_name(name)).stat().st_ino


def is_ours(name: str) -> bool:
    """Whether the segments of a name are this user's: anybody may put files into /dev/shm."""
    try:
        owners = {
            (_SHM_DIR / segment).lstat().st_uid
            for segment in (_tables_name(name), _counters_name(name))
        }
    except OSError:
        return False
    return owners == {os.geteuid()}


def _tables_name(name: str) -> str:
    return f"{name}.tables"


def _counters_name(name: str) -> str:
    return f"{name}.counters"


def _open(name: str, create_bytes: int = 0) -> mmap:
    """Create (with a size) or attach, as shm_open(3) does it. Raises OSError, or ValueError for an empty one.

    Not `multiprocessing.shared_memory`: up to Python 3.12 its resource tracker is a process more for each
    of ours, and unlinks the segment for everybody when the first one that saw it exits.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(_SHM_DIR / name, flags | (os.O_CREAT | os.O_EXCL if create_bytes else 0), 0o600)
    try:
        if create_bytes:
            os.ftruncate(fd, create_bytes)
        return mmap(fd, 0)
    finally:
        os.close(fd)


def _mismatch(memory: mmap, instance: bytes | None) -> str:
    """Why a segment must not be used; empty when it may."""
    if len(memory) < HEADER_BYTES:
        return "it is too small"
    magic, abi, header_bytes, boot, owner, _, routes, flows, capacity = _HEADER.unpack_from(memory)
    if magic != MAGIC or header_bytes != HEADER_BYTES:
        return "it is not a voicerelay region"
    if abi != ABI:
        return f"it has ABI {abi}, this version needs {ABI}"
    if boot != boot_id():
        return "it is from before the last boot"
    if instance is not None and owner != instance:
        return "it belongs to another instance"
    if not MIN_CAPACITY <= capacity <= MAX_CAPACITY:
        return "its sizes are out of range"
    sizes = Sizes.for_capacity(capacity)
    if (sizes.routes, sizes.flows) != (routes, flows) or len(memory) < sizes.total_bytes:
        return "its sizes do not match"
    return ""


def _check_space(needed: int) -> None:
    stat = os.statvfs(_SHM_DIR)
    free = stat.f_bavail * stat.f_frsize
    if free < needed:
        raise RegionSpaceError(
            f"/dev/shm has {free >> 20} MiB free, the tables need {(needed >> 20) + 1} MiB"
        )
