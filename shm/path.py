"""The client's path: one 20-byte key for "this client address, seen on this public socket group"."""

import socket
import struct

PATH_BYTES = 20
_PATH = struct.Struct("!BxH16s")
Address = tuple[str, int] | tuple[str, int, int, int]  # of IPv4 and of IPv6 sockets
_V4_MAPPED = bytes(10) + b"\xff\xff"


def pack_path(local: int, host: str, port: int) -> bytes:
    """Key of a client address: listen address index, port, address (IPv4 as ::ffff:a.b.c.d).

    Raises ValueError when `host` is no IP address or a number is out of range.
    """
    try:
        if ":" in host:
            address = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
        else:
            address = _V4_MAPPED + socket.inet_aton(host)
        return _PATH.pack(local, port, address)
    except (OSError, struct.error) as exc:
        raise ValueError(f"not a client address: {host!r} port {port}") from exc


def address_path(local: int, address: Address) -> bytes:
    """Key of an address as Python's sockets give it."""
    return pack_path(local, address[0], address[1])


def unpack_path(path: bytes) -> tuple[int, str, int]:
    """Listen address index, host and port of a key made by `pack_path`."""
    local, port, address = _PATH.unpack(path)
    if address[:12] == _V4_MAPPED:
        return local, socket.inet_ntoa(address[12:]), port
    return local, socket.inet_ntop(socket.AF_INET6, address), port


def path_address(path: bytes) -> tuple[int, bytes]:
    """Port and address bytes (4 for IPv4, 16 for IPv6), as XOR-MAPPED-ADDRESS wants them."""
    _, port, address = _PATH.unpack(path)
    return port, address[12:] if address[:12] == _V4_MAPPED else address


def is_path(value: bytes) -> bool:
    """Whether bytes from another process have the form of a path."""
    return len(value) == PATH_BYTES and value[1] == 0
