"""The relay's loop in C, where it was built: the same interface and decisions as `loop.Forwarder`, in a thread."""

import ctypes
import os
import socket
import threading
import time
from itertools import chain
from pathlib import Path

from voicerelay.shm.counters import MAX_TRANSCEIVERS, Block, RelayCounter
from voicerelay.shm.overflow import overflows
from voicerelay.shm.table import TableReader

LIBRARY = Path(__file__).with_name("libfastpath.so.1")
VERSION = 1  # of the structs, as in fastpath.c


class _Table(ctypes.Structure):
    _fields_ = (
        ("records", ctypes.c_void_p),
        ("epoch", ctypes.c_void_p),
        ("mask", ctypes.c_uint32),
        ("max_probe", ctypes.c_uint32),
    )


class _Link(ctypes.Structure):
    _fields_ = (
        ("retry_at", ctypes.c_uint64),
        ("generation", ctypes.c_uint32),
        ("refused_generation", ctypes.c_uint32),
        ("fd", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
    )


class _Input(ctypes.Structure):
    _fields_ = (
        ("fd", ctypes.c_int32),
        ("relay", ctypes.c_uint8),
        ("local", ctypes.c_uint8),
        ("v6", ctypes.c_uint8),
        ("reserved", ctypes.c_uint8),
    )


class _FastPath(ctypes.Structure):
    _fields_ = (
        ("routes", _Table),
        ("flows", _Table),
        ("counters", ctypes.c_void_p),
        ("other_loop_ns", ctypes.c_void_p),
        ("links", ctypes.c_void_p),
        ("run_dir", ctypes.c_char_p),
        ("inputs", ctypes.c_void_p),
        ("input_count", ctypes.c_uint32),
        ("coalesce_us", ctypes.c_uint32),
        ("stop_fd", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
    )


class FastPathMissing(Exception):
    """The loop in C is not there; the message says why."""


def open_library() -> ctypes.CDLL:
    """The loop, ready to be run. Raises FastPathMissing."""
    if not LIBRARY.exists():
        raise FastPathMissing("it was not built; install a C compiler, then voicerelay")
    try:
        library = ctypes.CDLL(str(LIBRARY))
        version = library.fastpath_version()
    except (OSError, AttributeError) as exc:
        raise FastPathMissing(f"{LIBRARY.name}: {exc}") from None
    if version != VERSION:
        raise FastPathMissing(f"{LIBRARY.name} is of another version; install voicerelay again")
    library.fastpath_run.argtypes = [ctypes.POINTER(_FastPath)]
    library.fastpath_run.restype = ctypes.c_int
    return library


class FastPath:
    """Reads the public sockets that this relay holds and feeds the transceivers.

    The thread is stopped and started again when the sockets change; their queues are kept.
    Raises FastPathMissing.
    """

    alive_s = 0.25  # how often `alive` is to be called, well below fastpath.c's OTHER_LOOP_NS

    def __init__(
        self,
        run_dir: Path,
        block: Block,
        coalesce_s: float,
        routes: TableReader,
        flows: TableReader,
    ) -> None:
        self._run = open_library().fastpath_run
        self._tables = routes, flows  # the thread reads their memory
        self._block = block
        self._block.set(RelayCounter.COMPILED, 1)
        self._held: dict[int, list[socket.socket]] = {}
        self._thread: threading.Thread | None = None
        self._links = (_Link * MAX_TRANSCEIVERS)()
        self._other_loop_ns = ctypes.c_uint64(time.monotonic_ns())
        self._stop_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._inputs = (_Input * 0)()
        self._settings = _FastPath(
            routes=_Table(*routes.place()),
            flows=_Table(*flows.place()),
            counters=ctypes.addressof(ctypes.c_char.from_buffer(block.words)),
            other_loop_ns=ctypes.addressof(self._other_loop_ns),
            links=ctypes.addressof(self._links),
            run_dir=os.fsencode(run_dir),
            coalesce_us=round(coalesce_s * 1e6),
            stop_fd=self._stop_fd,
        )

    @property
    def holding(self) -> list[int]:
        """Indices of the relay sockets being read."""
        return sorted(self._held)

    def hold(self, relay: int, sockets: list[socket.socket]) -> None:
        """Start to read a relay socket (one for each listen address)."""
        self._stop()
        self._let_go(relay)
        self._held[relay] = sockets
        for sock in sockets:
            sock.setblocking(False)
        self._start()

    def release(self, relay: int) -> None:
        """Stop to read a relay socket; its queue stays for whoever holds it next."""
        self._stop()
        self._let_go(relay)
        self._start()

    def alive(self) -> None:
        """The event loop turns; the thread gives the sign of life, as long as both do (law 6)."""
        self._other_loop_ns.value = time.monotonic_ns()
        lost = sum(map(overflows, chain.from_iterable(self._held.values())))
        self._block.set(RelayCounter.SOCKET_OVERFLOWS, lost)

    def close(self) -> None:
        """Stop the thread and let go of every socket and link."""
        if self._stop_fd < 0:
            return
        self._stop()
        for relay in self.holding:
            self._let_go(relay)
        for link in self._links:
            if link.fd:
                os.close(link.fd)
                link.fd = 0
        os.close(self._stop_fd)
        self._stop_fd = -1

    def _let_go(self, relay: int) -> None:
        for sock in self._held.pop(relay, []):
            sock.close()

    def _stop(self) -> None:
        if self._thread is not None:
            os.eventfd_write(self._stop_fd, 1)
            self._thread.join()
            self._thread = None
            os.eventfd_read(self._stop_fd)

    def _start(self) -> None:
        inputs = [
            _Input(sock.fileno(), relay, local, sock.family == socket.AF_INET6)
            for relay, sockets in self._held.items()
            for local, sock in enumerate(sockets)
        ]
        self._inputs = (_Input * len(inputs))(*inputs)
        self._settings.inputs = ctypes.addressof(self._inputs)
        self._settings.input_count = len(inputs)
        self._block.set(RelayCounter.SOCKETS_READ, len(self._held))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        """The thread: holds `self`, and so all memory that is used in it."""
        self._run(ctypes.byref(self._settings))
