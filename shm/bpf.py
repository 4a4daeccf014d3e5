"""A thin binding to libbpf: load an object, reach its maps, pin. Errors are OSError with the kernel's reason."""

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SO_ATTACH_REUSEPORT_EBPF = 52  # <asm-generic/socket.h>; no constant in Python 3.11
SO_DETACH_REUSEPORT_BPF = 68
BPF_ANY = 0
BPFFS = Path("/sys/fs/bpf")  # where pins live, when it is mounted

# enum bpf_map_type of <linux/bpf.h>
HASH, ARRAY, PERCPU_ARRAY, REUSEPORT_SOCKARRAY = 1, 2, 6, 20
_MAP_INFO = struct.Struct(
    "=6I"
)  # type, id, key, value, entries, flags: struct bpf_map_info's first


class BpfUnavailable(Exception):
    """Kernel steering cannot be used here; the message says what is missing."""


class _Library:
    """libbpf.so.1 with the calls that are used, or BpfUnavailable."""

    _loaded: ctypes.CDLL | None = None

    @classmethod
    def get(cls) -> ctypes.CDLL:
        if cls._loaded is None:
            try:
                library = ctypes.CDLL("libbpf.so.1", use_errno=True)
            except OSError:
                raise BpfUnavailable("libbpf.so.1 is not installed (Debian: libbpf1)") from None
            pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
            for name, result, arguments in (
                ("bpf_object__open_file", pointer, [text, pointer]),
                ("bpf_object__load", number, [pointer]),
                ("bpf_object__close", None, [pointer]),
                ("bpf_object__find_map_by_name", pointer, [pointer, text]),
                ("bpf_object__find_program_by_name", pointer, [pointer, text]),
                ("bpf_map__set_max_entries", number, [pointer, ctypes.c_uint32]),
                ("bpf_map__fd", number, [pointer]),
                ("bpf_program__fd", number, [pointer]),
                ("bpf_map_update_elem", number, [number, pointer, pointer, ctypes.c_uint64]),
                ("bpf_map_delete_elem", number, [number, pointer]),
                ("bpf_map_lookup_elem", number, [number, pointer, pointer]),
                ("bpf_map_get_next_key", number, [number, pointer, pointer]),
                ("bpf_obj_pin", number, [number, text]),
                ("bpf_obj_get", number, [text]),
                ("bpf_obj_get_info_by_fd", number, [number, pointer, pointer]),
                ("libbpf_set_print", pointer, [pointer]),
                ("libbpf_num_possible_cpus", number, []),
            ):
                function = getattr(library, name)
                function.restype, function.argtypes = result, arguments
            library.libbpf_set_print(None)  # its messages become our errors
            cls._loaded = library
        return cls._loaded


def possible_cpus() -> int:
    """How many values a per-CPU map has for a key."""
    return int(_Library.get().libbpf_num_possible_cpus())


class MapShape(NamedTuple):
    """What a map's readers and writers must agree on; `kind`: HASH, ARRAY, ..."""

    kind: int
    key_bytes: int
    value_bytes: int
    entries: int


def map_shape(fd: int) -> MapShape:
    """Of a map's descriptor. Raises OSError for what is no map."""
    if not _is(fd, "bpf-map"):
        raise OSError(errno.EINVAL, "not a map")
    info, size = ctypes.create_string_buffer(_MAP_INFO.size), ctypes.c_uint32(_MAP_INFO.size)
    _check(_Library.get().bpf_obj_get_info_by_fd(fd, info, ctypes.byref(size)), "map info")
    kind, _, key_bytes, value_bytes, entries, _ = _MAP_INFO.unpack(info.raw)
    return MapShape(kind, key_bytes, value_bytes, entries)


def is_program(fd: int) -> bool:
    """Whether a descriptor is that of a program."""
    return _is(fd, "bpf-prog")


def pin(fd: int, path: Path) -> None:
    """Keep a map or program alive by a file in bpffs."""
    _check(_Library.get().bpf_obj_pin(fd, str(path).encode()), f"pin {path}")


def open_pin(path: Path) -> int:
    """A descriptor of what is pinned there: look what it is before use. Raises OSError."""
    return _check(_Library.get().bpf_obj_get(str(path).encode()), f"open {path}")


class BpfMap:
    """A map by its descriptor; keys and values are bytes of the map's own sizes."""

    def __init__(self, fd: int, value_bytes: int) -> None:
        self.fd = fd
        self._value_bytes = value_bytes
        self._library = _Library.get()

    def put(self, key: bytes, value: bytes) -> None:
        """Write or overwrite. Raises OSError (E2BIG: full)."""
        _check(self._library.bpf_map_update_elem(self.fd, key, value, BPF_ANY), "map update")

    def remove(self, key: bytes) -> bool:
        """False when the key was not there."""
        return int(self._library.bpf_map_delete_elem(self.fd, key)) == 0

    def get(self, key: bytes) -> bytes | None:
        value = ctypes.create_string_buffer(self._value_bytes)
        if self._library.bpf_map_lookup_elem(self.fd, key, value):
            return None
        return value.raw

    def keys(self, key_bytes: int) -> Iterator[bytes]:
        """Every key; do not write meanwhile."""
        current: bytes | None = None
        following = ctypes.create_string_buffer(key_bytes)
        while self._library.bpf_map_get_next_key(self.fd, current, following) == 0:
            current = following.raw
            yield current


class BpfObject:
    """An object file that is opened, given its sizes, and loaded into the kernel."""

    def __init__(self, path: Path) -> None:
        self._library = _Library.get()
        self._object = self._library.bpf_object__open_file(str(path).encode(), None)
        if not self._object:
            raise OSError(ctypes.get_errno(), f"cannot open {path.name}")

    def resize(self, name: str, entries: int) -> None:
        """Set a map's capacity, before `load`."""
        _check(self._library.bpf_map__set_max_entries(self._map(name), entries), f"resize {name}")

    def load(self) -> None:
        """Verify and load. Raises OSError (EPERM: no CAP_BPF)."""
        _check(self._library.bpf_object__load(self._object), "load")

    def map_fd(self, name: str) -> int:
        """A descriptor of a map that outlives this object."""
        return os.dup(_check(self._library.bpf_map__fd(self._map(name)), name))

    def program_fd(self, name: str) -> int:
        """A descriptor of a program that outlives this object."""
        program = self._library.bpf_object__find_program_by_name(self._object, name.encode())
        return os.dup(_check(self._library.bpf_program__fd(program), name))

    def close(self) -> None:
        self._library.bpf_object__close(self._object)

    def _map(self, name: str) -> int:
        found: int | None = self._library.bpf_object__find_map_by_name(self._object, name.encode())
        if not found:
            raise OSError(f"the object has no map {name}")
        return found


def _is(fd: int, kind: str) -> bool:
    return os.readlink(f"/proc/self/fd/{fd}") == f"anon_inode:{kind}"


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno() or -result
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
