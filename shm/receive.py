"""Many datagrams with one system call: recvmmsg(2) into buffers made once. Python's sockets have no such call."""

import ctypes
import socket
import struct

from voicerelay.shm.frame import MAX_DATAGRAM_BYTES
from voicerelay.shm.path import pack_path

MAX_BATCH = 64
SLOT_BYTES = 2112  # MAX_DATAGRAM_BYTES, one more to see that a datagram was longer, and alignment
_RECEIVE_BYTES = MAX_DATAGRAM_BYTES + 1
_MMSGHDR = struct.Struct("=QIxxxxQQQQIxxxxIxxxx")  # struct mmsghdr on 64-bit Linux
_IOVEC = struct.Struct("=QQ")
_SOCKADDR_IN6 = struct.Struct("=HHI16sI")
assert _MMSGHDR.size == 64

# Where a datagram came from, as the kernel wrote it: the first 8 bytes of sockaddr_in as a number
# (family, port, address), or the bytes of sockaddr_in6.
Source = int | bytes

_recvmmsg = ctypes.CDLL(None, use_errno=True).recvmmsg
_recvmmsg.argtypes = [
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_uint,
    ctypes.c_int,
    ctypes.c_void_p,
]


class Batch:
    """Buffers for `MAX_BATCH` datagrams of one address family, used again by every receive.

    `places[i]`: offset in `store` and index in `sizes` of datagram i.
    """

    def __init__(self, family: int) -> None:
        self._v4 = family == socket.AF_INET
        self._name_bytes = 16 if self._v4 else _SOCKADDR_IN6.size
        self._memory = bytearray(MAX_BATCH * SLOT_BYTES)
        self._names = bytearray(MAX_BATCH * self._name_bytes)
        self._vectors = bytearray(MAX_BATCH * _IOVEC.size)
        self._descriptions = bytearray(MAX_BATCH * _MMSGHDR.size)
        store, names, vectors, headers = map(
            _address, (self._memory, self._names, self._vectors, self._descriptions)
        )
        for i in range(MAX_BATCH):
            _IOVEC.pack_into(self._vectors, i * _IOVEC.size, store + i * SLOT_BYTES, _RECEIVE_BYTES)
            name, vector = names + i * self._name_bytes, vectors + i * _IOVEC.size
            header = name, self._name_bytes, vector, 1, 0, 0, 0, 0
            _MMSGHDR.pack_into(self._descriptions, i * _MMSGHDR.size, *header)
        self.headers = headers  # where the kernel's struct mmsghdr of each lie
        self._pointer = ctypes.c_void_p(headers)
        self.store = memoryview(self._memory)
        self.sizes = memoryview(self._descriptions).cast("I")
        self.places = tuple(
            (i * SLOT_BYTES, (i * _MMSGHDR.size + 56) // 4) for i in range(MAX_BATCH)
        )
        self._numbers = memoryview(self._names).cast("Q" if self._v4 else "B")

    def receive(self, fd: int) -> int:
        """How many datagrams now lie in the buffers; 0 when the socket is empty (or has an error)."""
        count: int = _recvmmsg(fd, self._pointer, MAX_BATCH, socket.MSG_DONTWAIT, None)
        return max(count, 0)

    def sources(self, count: int) -> list[Source]:
        """Where the first `count` datagrams came from."""
        if self._v4:
            return list(self._numbers[: count * 2 : 2])
        size = self._name_bytes
        return [bytes(self._names[start : start + size]) for start in range(0, count * size, size)]


def source_path(local: int, source: Source) -> bytes:
    """The path of a source."""
    if isinstance(source, int):
        raw = source.to_bytes(8, "little")
        return pack_path(local, socket.inet_ntoa(raw[4:8]), int.from_bytes(raw[2:4], "big"))
    _, port, _, address, _ = _SOCKADDR_IN6.unpack(source)
    return pack_path(local, socket.inet_ntop(socket.AF_INET6, address), socket.ntohs(port))


def _address(buffer: bytearray) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
