"""libsrtp as pylibsrtp binds it, without what its Session does around each packet: the path of a frame.

The sessions are pylibsrtp's; here are only its calls, with one buffer for all of them, which stays in the
processor's cache. Not for more than one thread.
"""

from collections.abc import Callable
from typing import Any, Final

import pylibsrtp

MAX_PACKET_BYTES: Final = 1500  # as in pylibsrtp.Session
MAX_TRAILER_BYTES: Final = 148  # SRTP_MAX_TRAILER_LEN and the four bytes of SRTCP's index
ARGUMENTS: Final = 3  # of libsrtp 2: state, packet, length

Transform = Callable[[bytes], bytes | None]

_binding: Any = pylibsrtp
_lib, _ffi = _binding.lib, _binding.ffi
_packet = _ffi.new("char[]", MAX_PACKET_BYTES + MAX_TRAILER_BYTES)
_bytes = _ffi.buffer(_packet)
_length = _ffi.new("int *")


class Keyed:
    """One direction of a call. Each transform gives None for what libsrtp refuses."""

    __slots__ = ("_session", "protect", "protect_rtcp", "unprotect", "unprotect_rtcp")

    def __init__(self, session: pylibsrtp.Session) -> None:
        self._session: Any = session  # keeps libsrtp's state alive
        self.protect = _transform(session, _lib.srtp_protect)
        self.protect_rtcp = _transform(session, _lib.srtp_protect_rtcp)
        self.unprotect = _transform(session, _lib.srtp_unprotect)
        self.unprotect_rtcp = _transform(session, _lib.srtp_unprotect_rtcp)

    @property
    def state(self) -> int:
        """Where libsrtp's state lies, for voice.c; as long as this object lives."""
        return int(_ffi.cast("uintptr_t", self._session._srtp[0]))


def functions() -> dict[str, int]:
    """Where the functions of the library lie that voice.c calls, by their names in voice.h.

    Raises AttributeError where they are not those of libsrtp 2.
    """
    found = {}
    for name in ("protect", "unprotect"):
        function = _ffi.addressof(_lib, f"srtp_{name}")
        if len(_ffi.typeof(function).args) != ARGUMENTS:
            raise AttributeError(f"srtp_{name} takes other arguments")
        found[name] = int(_ffi.cast("uintptr_t", function))
    return found


def _transform(session: Any, function: Callable[[Any, Any, Any], int]) -> Transform:
    state = session._srtp[0]
    packet, view, length = _packet, _bytes, _length

    def transform(data: bytes) -> bytes | None:
        size = len(data)
        if size > MAX_PACKET_BYTES:
            return None
        view[0:size] = data
        length[0] = size
        if function(state, packet, length):
            return None
        done: bytes = view[0 : length[0]]
        return done

    return transform
