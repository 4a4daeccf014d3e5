"""What voice.c and Python share of a call's voice: the structs of voice.h, in memory that Python owns."""

from pathlib import Path
from typing import Any, Final

from cffi import FFI

HEADER: Final = Path(__file__).with_name("voice.h")

ffi: Any = FFI()
ffi.cdef(HEADER.read_text())

# Each is zero when it is new, and freed with the last reference to it: a pointer to it is none.
_LINE, _STREAM, _EAR, _MOUTH = (
    ffi.typeof(f"struct voice_{name} *") for name in ("line", "stream", "ear", "mouth")
)


def new_line() -> Any:
    """The RTP of a call, both ways."""
    return ffi.new(_LINE)


def new_stream() -> Any:
    """The reception of one source."""
    return ffi.new(_STREAM)


def new_ear() -> Any:
    """The decoder of a call, and the packet that is next."""
    return ffi.new(_EAR)


def new_mouth() -> Any:
    """What a call has to say."""
    return ffi.new(_MOUTH)
