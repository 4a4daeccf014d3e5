"""The UDP socket of a caller: sends, receives with the kernel's time of arrival, and may be replaced. A shell."""

import socket
import struct
import time

from voicerelay.cli.loadtest.sdp import Address
from voicerelay.cli.loadtest.tally import Tally

MAX_DATAGRAM_BYTES = 2048
RECEIVE_BUFFER_BYTES = 256 << 10
_SO_TIMESTAMPNS = 35  # has no name in Python 3.11
_ANCILLARY_BYTES = 64
_TIMESPEC = struct.Struct("qq")


class Endpoint:
    """On a port of its own at `source`. Sends where it is told until it is connected."""

    def __init__(self, source: str, tally: Tally) -> None:
        self.remote: Address | None = None
        self._source = source
        self._tally = tally
        self._socket = self._open()

    @property
    def local(self) -> Address:
        return Address(*self._socket.getsockname()[:2])

    @property
    def ipv6(self) -> bool:
        return ":" in self._source

    def fileno(self) -> int:
        return self._socket.fileno()

    def connect(self, remote: Address) -> None:
        """From now on only `remote` is sent to and heard."""
        self._socket.connect(remote)
        self.remote = remote

    def move(self) -> int:
        """Go on from another port; gives the file descriptor that is no longer used."""
        old, self._socket = self._socket, self._open()
        if self.remote is not None:
            self._socket.connect(self.remote)
        fd = old.fileno()
        old.close()
        self._tally.rebinds += 1
        return fd

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes, to: Address | None = None) -> None:
        """What cannot be sent is counted. `to`: for an endpoint that is not connected."""
        try:
            if self.remote is not None:
                self._socket.send(data)
            elif to is not None:
                self._socket.sendto(data, to)
            else:
                self._tally.send_failures += 1
                return
        except OSError:
            self._tally.send_failures += 1
        else:
            self._tally.sent += 1

    def receive(self) -> tuple[bytes, float] | None:
        """A datagram of the remote's and its Unix time of arrival; None when there is none."""
        try:
            data, ancillary, _, _ = self._socket.recvmsg(MAX_DATAGRAM_BYTES, _ANCILLARY_BYTES)
        except OSError:  # nothing there, or the host says that nobody listens
            return None
        self._tally.received += 1
        if not ancillary:
            return data, time.time()
        seconds, nanoseconds = _TIMESPEC.unpack(ancillary[0][2])
        return data, seconds + nanoseconds * 1e-9

    def receive_from(self) -> tuple[bytes, Address] | None:
        """A datagram of whomever."""
        try:
            data, source = self._socket.recvfrom(MAX_DATAGRAM_BYTES)
        except OSError:
            return None
        self._tally.received += 1
        return data, Address(*source[:2])

    def _open(self) -> socket.socket:
        made = socket.socket(socket.AF_INET6 if self.ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        made.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        made.bind((self._source, 0))
        return made
