"""Datagrams that a full receive buffer has cost: the kernel drops them before any process can count them."""

import socket
import struct

_SO_MEMINFO = 55  # <asm-generic/socket.h>; no constant in Python
_MEMINFO = struct.Struct("=9I")  # <linux/sock_diag.h>, the last is SK_MEMINFO_DROPS


def overflows(sock: socket.socket) -> int:
    """Of a socket since it was made, whoever read it; modulo 2^32."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
    except OSError:
        return 0
    return int(_MEMINFO.unpack(raw)[8]) if len(raw) == _MEMINFO.size else 0
