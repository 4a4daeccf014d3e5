"""Kernel steering: loads the program of `steer.bpf.c`, one for each listen address, fills and pins it."""

import contextlib
import errno
import os
import shutil
import socket
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from voicerelay.shm import bpf
from voicerelay.shm.bpf import (
    SO_ATTACH_REUSEPORT_EBPF,
    SO_DETACH_REUSEPORT_BPF,
    BpfMap,
    BpfObject,
    BpfUnavailable,
    MapShape,
)
from voicerelay.shm.counters import MAX_RELAYS, MAX_TRANSCEIVERS
from voicerelay.shm.path import PATH_BYTES
from voicerelay.shm.region import Sizes
from voicerelay.shm.ufrag import UFRAG_BYTES

OBJECT = Path(__file__).with_name("steer.bpf.o")
PROGRAM = "steer"
COUNTERS = 4
OWNER_BYTES = 8  # slot, generation
PIN_DIRECTORY_MODE = 0o700
_U32 = struct.Struct("=I")
_U64 = struct.Struct("=Q")


@dataclass(frozen=True)
class SteeredGroup:
    """Descriptors of one listen address's maps and program, by their names in the object."""

    flows: int
    routes: int
    generations: int
    counters: int
    sockets: int
    relays: int
    steer: int

    def close(self) -> None:
        for fd in asdict(self).values():
            os.close(fd)


STEERED_NAMES = tuple(field.name for field in fields(SteeredGroup))


def load(
    relays: Sequence[Sequence[socket.socket]],
    transceivers: Sequence[Sequence[socket.socket]],
    sizes: Sizes,
) -> list[SteeredGroup]:
    """Steer every listen address's group; sockets as [process][listen address].

    Raises BpfUnavailable, with nothing attached.
    """
    if not OBJECT.exists():
        raise BpfUnavailable(
            "the program was not built; install clang and libbpf-dev, then voicerelay"
        )
    groups: list[SteeredGroup] = []
    try:
        for local in range(len(relays[0])):
            members = [r[local] for r in relays], [t[local] for t in transceivers]
            groups.append(_load_group(*members, sizes))
    except OSError as exc:
        for local, group in enumerate(groups):
            relays[0][local].setsockopt(socket.SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, 0)
            group.close()
        raise BpfUnavailable(_explain(exc)) from exc
    return groups


def _load_group(
    relays: Sequence[socket.socket], transceivers: Sequence[socket.socket], sizes: Sizes
) -> SteeredGroup:
    program = BpfObject(OBJECT)
    with contextlib.ExitStack() as opened:
        opened.callback(program.close)
        program.resize("flows", sizes.flows // 2)
        program.resize("routes", sizes.routes // 2)
        program.load()
        found = {}
        with contextlib.ExitStack() as kept:
            for name in STEERED_NAMES:
                found[name] = program.program_fd(name) if name == PROGRAM else program.map_fd(name)
                kept.callback(os.close, found[name])
            group = SteeredGroup(**found)
            _attach(group, relays, transceivers)
            kept.pop_all()
        return group


def _attach(
    group: SteeredGroup, relays: Sequence[socket.socket], transceivers: Sequence[socket.socket]
) -> None:
    places = dict(enumerate(relays))
    places |= {MAX_RELAYS + slot: sock for slot, sock in enumerate(transceivers)}
    members = BpfMap(group.sockets, _U64.size)
    for index, sock in places.items():
        try:
            members.put(_U32.pack(index), _U64.pack(sock.fileno()))
        except OSError as exc:
            if exc.errno != errno.EBUSY:  # it stands there already, put by an earlier control
                raise
    BpfMap(group.relays, _U32.size).put(_U32.pack(0), _U32.pack(len(relays)))
    # One member is enough: the program belongs to the group, as long as any member lives.
    relays[0].setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF, group.steer)


def take_over(
    found: Sequence[dict[str, int]],
    relays: Sequence[Sequence[socket.socket]],
    transceivers: Sequence[Sequence[socket.socket]],
    sizes: Sizes,
) -> list[SteeredGroup]:
    """Groups by the descriptors that an earlier process loaded, one dict a listen address.

    Their maps keep what is in them. Raises BpfUnavailable when they are not of this program and
    these sizes; the descriptors are closed then.
    """
    expected = _shapes(sizes)
    try:
        if len(found) != len(relays[0]):
            raise BpfUnavailable("they are of other listen addresses")
        groups = []
        for local, fds in enumerate(found):
            if set(fds) != set(STEERED_NAMES) or not all(
                _fits(name, fd, expected) for name, fd in fds.items()
            ):
                raise BpfUnavailable("they are of another kind or size")
            groups.append(SteeredGroup(**fds))
            _attach(groups[-1], [r[local] for r in relays], [t[local] for t in transceivers])
    except (OSError, BpfUnavailable) as exc:
        for fds in found:
            for fd in fds.values():
                os.close(fd)
        raise BpfUnavailable(f"what was kept cannot be used: {exc}") from exc
    return groups


def _fits(name: str, fd: int, expected: dict[str, MapShape]) -> bool:
    return bpf.is_program(fd) if name == PROGRAM else bpf.map_shape(fd) == expected[name]


def pin(groups: Sequence[SteeredGroup], directory: Path) -> None:
    """Keep everything by names in bpffs, `directory`/LISTEN ADDRESS/NAME; it must not be there yet.

    Raises BpfUnavailable, with nothing pinned.
    """
    try:
        directory.mkdir(mode=PIN_DIRECTORY_MODE)
    except OSError as exc:
        raise BpfUnavailable(_why_no_pins(exc, directory)) from None
    try:
        for local, group in enumerate(groups):
            (directory / str(local)).mkdir(mode=PIN_DIRECTORY_MODE)
            for name, fd in asdict(group).items():
                bpf.pin(fd, directory / str(local) / name)
    except OSError as exc:
        shutil.rmtree(directory, ignore_errors=True)
        raise BpfUnavailable(_why_no_pins(exc, directory)) from None


def reopen(directory: Path, sizes: Sizes) -> list[SteeredGroup]:
    """What `pin` left there, for a process that has nothing but the names.

    Raises BpfUnavailable when it is missing, another user's, or not of this program and these
    sizes: a map with longer values would be read into too short a buffer.
    """
    groups: list[SteeredGroup] = []
    try:
        if directory.lstat().st_uid not in (0, os.geteuid()):
            raise BpfUnavailable(f"{directory} is another user's")
        number = len(os.listdir(directory))
        groups.extend(_reopen_group(directory / str(local), sizes) for local in range(number))
    except (OSError, BpfUnavailable) as exc:
        for group in groups:
            group.close()
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise BpfUnavailable(f"the pins cannot be used: {reason}") from exc
    if not groups:
        raise BpfUnavailable(f"{directory} is empty")
    return groups


def _reopen_group(directory: Path, sizes: Sizes) -> SteeredGroup:
    expected = _shapes(sizes)
    found = {}
    with contextlib.ExitStack() as opened:
        for name in STEERED_NAMES:
            fd = found[name] = bpf.open_pin(directory / name)
            opened.callback(os.close, fd)
            if not _fits(name, fd, expected):
                raise BpfUnavailable(f"{directory / name} is of another kind or size")
        opened.pop_all()
    return SteeredGroup(**found)


def _shapes(sizes: Sizes) -> dict[str, MapShape]:
    """Every map as `steer.bpf.c` declares it and `load` sizes it."""
    number = _U32.size
    return {
        "flows": MapShape(bpf.HASH, PATH_BYTES, OWNER_BYTES, sizes.flows // 2),
        "routes": MapShape(bpf.HASH, UFRAG_BYTES, OWNER_BYTES, sizes.routes // 2),
        "generations": MapShape(bpf.ARRAY, number, number, MAX_TRANSCEIVERS),
        "counters": MapShape(bpf.PERCPU_ARRAY, number, _U64.size, COUNTERS),
        "sockets": MapShape(
            bpf.REUSEPORT_SOCKARRAY, number, _U64.size, MAX_RELAYS + MAX_TRANSCEIVERS
        ),
        "relays": MapShape(bpf.ARRAY, number, number, 1),
    }


def _why_no_pins(exc: OSError, directory: Path) -> str:
    if not directory.parent.is_mount():
        return f"bpffs is not mounted at {directory.parent}"
    return f"{directory}: {exc.strerror or exc}"


def _explain(exc: OSError) -> str:
    if exc.errno in (errno.EPERM, errno.EACCES):
        return (
            "no permission to load it: needs CAP_BPF (systemd: AmbientCapabilities=CAP_BPF) or root"
        )
    if exc.errno in (errno.ENOSYS, errno.EINVAL, errno.ENOPROTOOPT):
        return f"this kernel does not take it ({exc.strerror})"
    return str(exc.strerror or exc)
