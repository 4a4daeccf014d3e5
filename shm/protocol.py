"""The control protocol: length-prefixed msgpack arrays, each of one known type, checked field by field."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import msgpack

from voicerelay.shm.counters import MAX_RELAYS, MAX_TRANSCEIVERS
from voicerelay.shm.path import is_path
from voicerelay.shm.ufrag import UFRAG_BYTES

PROTOCOL = 1
MAX_MESSAGE_BYTES = 64 * 1024
MAX_REPLAY_ENTRIES = 512  # a message; a replay may take many
MAX_TEXT_CHARACTERS = 512
LENGTH = struct.Struct("!I")
_U32_MAX = 0xFFFFFFFF

RELAY, TRANSCEIVER = "relay", "transceiver"
SKEW = "version skew: "  # how the reason of a refusal begins that no retry changes


class ProtocolError(ValueError):
    """The peer sent what this protocol does not know; its connection is closed."""


def _u32(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _U32_MAX


def _relay(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_RELAYS


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT_CHARACTERS


def _ufrag(value: Any) -> bool:
    return isinstance(value, bytes) and len(value) == UFRAG_BYTES


def _path(value: Any) -> bool:
    return isinstance(value, bytes) and is_path(value)


def _bytes(value: Any) -> bool:
    return isinstance(value, bytes) and len(value) <= MAX_TEXT_CHARACTERS


def _role(value: Any) -> bool:
    return value in (RELAY, TRANSCEIVER)


def _index(value: Any) -> bool:
    return type(value) is int and 0 <= value < max(MAX_RELAYS, MAX_TRANSCEIVERS)


def _list_of(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, list) and len(value) <= MAX_REPLAY_ENTRIES and all(map(check, value))
    )


def _keyed(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, list) and len(value) == 2 and check(value[0]) and _u32(value[1])
    )


@dataclass(frozen=True, slots=True)
class Hello:
    """First message of a peer. `generation`: 0, or what an earlier Welcome gave (reconnect)."""

    protocol: int
    abi: int
    role: str
    index: int
    generation: int
    holding: list[int]
    CHECKS: ClassVar = (_u32, _u32, _role, _index, _u32, _list_of(_relay))


@dataclass(frozen=True, slots=True)
class Welcome:
    """Control's answer. A descriptor for each listen address comes with it.

    `steered`: the kernel puts packets into these sockets, so a transceiver must read its own.
    """

    instance: bytes
    region: str
    generation: int
    cluster_key: bytes
    steered: bool
    CHECKS: ClassVar = (_bytes, _text, _u32, _bytes, _flag)


@dataclass(frozen=True, slots=True)
class Refused:
    """Control will not speak with this peer; the connection is closed after it."""

    reason: str
    CHECKS: ClassVar = (_text,)


@dataclass(frozen=True, slots=True)
class Adopt:
    """To a relay: read this socket too. Its descriptors come with the message."""

    relay: int
    CHECKS: ClassVar = (_relay,)


@dataclass(frozen=True, slots=True)
class Release:
    """To a relay: stop reading this socket, its own relay is back."""

    relay: int
    CHECKS: ClassVar = (_relay,)


@dataclass(frozen=True, slots=True)
class RegisterRoute:
    """From a transceiver: this ufrag leads to me."""

    request: int
    ufrag: bytes
    session: int
    CHECKS: ClassVar = (_u32, _ufrag, _u32)


@dataclass(frozen=True, slots=True)
class UnregisterRoute:
    """From a transceiver: forget this ufrag. Not answered."""

    ufrag: bytes
    CHECKS: ClassVar = (_ufrag,)


@dataclass(frozen=True, slots=True)
class CommitFlow:
    """From a transceiver that verified MESSAGE-INTEGRITY from this path (law 2)."""

    request: int
    path: bytes
    session: int
    CHECKS: ClassVar = (_u32, _path, _u32)


@dataclass(frozen=True, slots=True)
class ReleaseFlow:
    """From a transceiver: forget this path. Not answered."""

    path: bytes
    session: int
    CHECKS: ClassVar = (_path, _u32)


@dataclass(frozen=True, slots=True)
class Done:
    """Answer to a request; `error` is empty when the table was written."""

    request: int
    error: str
    CHECKS: ClassVar = (_u32, _text)


@dataclass(frozen=True, slots=True)
class FlowLost:
    """To a transceiver: another session's authenticated check took over this path."""

    path: bytes
    session: int
    CHECKS: ClassVar = (_path, _u32)


@dataclass(frozen=True, slots=True)
class Replay:
    """From a reconnected transceiver: part of what it owns, as [key, session] pairs."""

    routes: list[list[Any]]
    flows: list[list[Any]]
    CHECKS: ClassVar = (_list_of(_keyed(_ufrag)), _list_of(_keyed(_path)))


@dataclass(frozen=True, slots=True)
class ReplayDone:
    """From a reconnected transceiver: that was all; anything else of mine is stale."""

    CHECKS: ClassVar = ()


Message = (
    Hello
    | Welcome
    | Refused
    | Adopt
    | Release
    | RegisterRoute
    | UnregisterRoute
    | CommitFlow
    | ReleaseFlow
    | Done
    | FlowLost
    | Replay
    | ReplayDone
)
# The position is the type number on the wire: append, never reorder.
_TYPES: tuple[type[Message], ...] = (
    Hello,
    Welcome,
    Refused,
    Adopt,
    Release,
    RegisterRoute,
    UnregisterRoute,
    CommitFlow,
    ReleaseFlow,
    Done,
    FlowLost,
    Replay,
    ReplayDone,
)
CARRIES_FDS = (Welcome, Adopt)
_NUMBERS = {kind: number for number, kind in enumerate(_TYPES)}


def encode(message: Message) -> bytes:
    """One message with its length prefix."""
    values = [getattr(message, field.name) for field in fields(message)]
    body: bytes = msgpack.packb([_NUMBERS[type(message)], *values])
    if len(body) > MAX_MESSAGE_BYTES:
        raise ValueError("control message too long")
    return LENGTH.pack(len(body)) + body


def decode(body: bytes) -> Message:
    """One message without its prefix. Raises ProtocolError, and nothing else."""
    try:
        values = msgpack.unpackb(
            body,
            strict_map_key=True,
            max_str_len=MAX_TEXT_CHARACTERS * 4,
            max_bin_len=MAX_TEXT_CHARACTERS,
            max_array_len=MAX_REPLAY_ENTRIES,
            max_map_len=0,
            max_ext_len=0,
        )
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError) as exc:
        raise ProtocolError("not msgpack") from exc
    if not isinstance(values, list) or not values:
        raise ProtocolError("not an array")
    number, *arguments = values
    if type(number) is not int or not 0 <= number < len(_TYPES):
        raise ProtocolError("unknown message type")
    kind = _TYPES[number]
    if len(arguments) != len(kind.CHECKS):
        raise ProtocolError(f"{kind.__name__}: number of fields")
    for check, argument in zip(kind.CHECKS, arguments, strict=True):
        if not check(argument):
            raise ProtocolError(f"{kind.__name__}: bad field")
    return kind(*arguments)


class Decoder:
    """Cuts a byte stream into messages; holds at most one unfinished message."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.consumed = 0

    def feed(self, data: bytes) -> Iterator[Message]:
        """Messages completed by `data`, one by one; `consumed` counts the bytes up to its end.

        Raises ProtocolError for a bad one.
        """
        self._buffer += data
        while len(self._buffer) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._buffer)
            if not 0 < length <= MAX_MESSAGE_BYTES:
                raise ProtocolError("message length")
            end = LENGTH.size + length
            if len(self._buffer) < end:
                break
            message = decode(bytes(self._buffer[LENGTH.size : end]))
            del self._buffer[:end]
            self.consumed += end
            yield message

    @property
    def unfinished(self) -> bool:
        """Whether the start of a message waits for its rest (for read deadlines)."""
        return bool(self._buffer)
