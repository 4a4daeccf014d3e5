"""Voice by voice.c, where it was built: the plain case of a frame, in and out, for all calls at once.

What it does not take goes the way in Python, which decides the same: `Engine` is that way alone, and `Compiled`
is before it.
"""

from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np

from voicerelay.transceiver.voice import LIBRARY, opus, srtp
from voicerelay.transceiver.voice.line import ffi
from voicerelay.transceiver.voice.opus import Pcm
from voicerelay.transceiver.voice.phase import Phase, Speaker

VERSION: Final = 1  # of the structs, as in voice.h
NO_SOCKET: Final = -1
FULL: Final = -1
NONE: Final = (0, 0)


class EngineMissing(Exception):
    """Voice in C is not there; the message says why."""


class Owner(Protocol):
    """A call, as the engine sees it."""

    def heard(self, frame: Pcm) -> None:
        """20 ms, in order, its own memory."""

    def opened(self, data: bytes, at: float) -> None:
        """An authentic RTP packet, decrypted, that is not the plain case."""


class Engine:
    """Takes nothing."""

    def use_public(self, sockets: Sequence[tuple[int, bool]]) -> None:
        """The public sockets to send by, one a listen address: descriptor, whether of IPv6."""

    def connect(self, line: Any, owner: Owner, path: bytes | None) -> None:
        """The call's media comes and goes by this path from now on; None: by no path that we know of."""

    def take(self, data: bytes, path: bytes) -> int:
        """A datagram, if it is media of a connected call; FULL before `hand_on`, else whether it is taken."""
        return False

    def sort(self, headers: int, count: int, local: int) -> Sequence[int]:
        """Which of the `count` datagrams that recvmmsg has described at the address `headers` are not taken.

        After `hand_on`, so that there is room.
        """
        return range(count)

    def hand_on(self) -> tuple[int, int]:
        """Give the owners what was taken; how many frames were heard, and packets refused as not authentic."""
        return NONE

    def turn(self, phase: Phase, slot: int, due: float, load: int) -> tuple[int, Sequence[Speaker]]:
        """The 20 ms that are due from the speakers of a phase: how many `speak` will send, and who is left."""
        return 0, tuple(phase.speakers)

    def speak(self) -> tuple[int, int]:
        """Encode and send what is to be said; how many packets were sent, and how many could not be."""
        return NONE


class Compiled(Engine):
    """By voice.c. Raises EngineMissing."""

    def __init__(self) -> None:
        self._lib = lib = _open_library()
        self._voice = voice = ffi.new("struct voice *")
        _give_libraries(voice.libraries)
        for local in range(len(voice.fds)):
            voice.fds[local] = NO_SOCKET
        self._owners: dict[int, Owner] = {}  # they keep their lines
        self._number = 0
        shape = len(voice.pcm), len(voice.pcm[0])
        self._pcm = np.frombuffer(ffi.buffer(voice.pcm), np.int16).reshape(shape)
        self._plain = [ffi.buffer(plain) for plain in voice.plain]
        # Looked up once: each is called for each frame.
        self._take, self._sort, self._turn = lib.voice_take, lib.voice_sort, lib.voice_turn

    def use_public(self, sockets: Sequence[tuple[int, bool]]) -> None:
        voice = self._voice
        for local in range(len(voice.fds)):
            voice.fds[local], voice.v6[local] = (
                sockets[local] if local < len(sockets) else (NO_SOCKET, False)
            )

    def connect(self, line: Any, owner: Owner, path: bytes | None) -> None:
        if path is not None:
            if line.connected and bytes(ffi.buffer(line.path)) == path:
                return
            if not line.owner:
                self._number += 1
                line.owner = self._number
            if self._lib.voice_connect(self._voice, line, path):
                self._owners[line.owner] = owner
                return
        self._lib.voice_forget(self._voice, line)
        self._owners.pop(line.owner, None)

    def take(self, data: bytes, path: bytes) -> int:
        return int(self._take(self._voice, data, len(data), path))

    def sort(self, headers: int, count: int, local: int) -> Sequence[int]:
        voice = self._voice
        left = self._sort(voice, ffi.cast("void *", headers), count, local)
        return voice.left[0:left] if left else ()

    def hand_on(self) -> tuple[int, int]:
        voice = self._voice
        refused = voice.refused
        if not voice.packets and not refused:
            return NONE
        voice.refused = 0
        frames, pcm, owners = 0, self._pcm, self._owners
        count = self._lib.voice_decode(voice)
        decoded = zip(voice.owner[0:count], voice.samples[0:count], strict=True)
        for index, (number, samples) in enumerate(decoded):
            owner = owners.get(number)
            if owner is None:  # it has ended since the packet was taken
                continue
            if samples:
                frames += 1
                owner.heard(pcm[index, :samples].copy())
            else:
                packet = voice.packet[index]
                owner.opened(self._plain[index][: packet.bytes], packet.at)
        return frames, refused

    def turn(self, phase: Phase, slot: int, due: float, load: int) -> tuple[int, Sequence[Speaker]]:
        mouths = phase.mouths
        if mouths is None:
            mouths = phase.mouths = _mouths(phase)
        speakers, array, left = mouths
        said: int = self._turn(self._voice, array, len(speakers), slot, due, load, left)
        if not self._voice.left_out:
            return said, ()
        lefts = []
        for place in left[0 : self._voice.left_out]:
            speaker = speakers[place >> 1]
            if place & 1:
                speaker.wake()
            else:
                lefts.append(speaker)
        return said, lefts

    def speak(self) -> tuple[int, int]:
        voice = self._voice
        self._lib.voice_speak(voice)
        counted = voice.sent, voice.not_sent
        voice.sent = voice.not_sent = 0
        return counted


def _mouths(phase: Phase) -> tuple[list[Speaker], Any, Any]:
    """Speakers, where their mouths lie, and room for the places of those that are left."""
    for speaker, first in phase.speakers.items():
        speaker.mouth.first = first
    speakers = list(phase.speakers)
    array = ffi.new("struct voice_mouth *[]", [speaker.mouth for speaker in speakers])
    return speakers, array, ffi.new("int32_t[]", len(speakers))


def _open_library() -> Any:
    """voice.c, ready to be called. Raises EngineMissing."""
    if not LIBRARY.exists():
        raise EngineMissing("it was not built; install a C compiler, then voicerelay")
    try:
        lib = ffi.dlopen(str(LIBRARY))
        version, size = lib.voice_version(), lib.voice_size()
    except (OSError, AttributeError) as exc:
        raise EngineMissing(f"{LIBRARY.name}: {exc}") from None
    if version != VERSION or size != ffi.sizeof("struct voice"):
        raise EngineMissing(f"{LIBRARY.name} is of another version; install voicerelay again")
    return lib


def _give_libraries(libraries: Any) -> None:
    """The functions of libopus and libsrtp that voice.c calls. Raises EngineMissing."""
    try:
        of_srtp = srtp.functions()
    except AttributeError as exc:
        raise EngineMissing(f"pylibsrtp: {exc}") from None
    for name, address in {**opus.functions(), **of_srtp}.items():
        setattr(libraries, name, ffi.cast(ffi.typeof(getattr(libraries, name)), address))
