"""Kernel steering: loads the program of `steer.bpf.c`, one for each listen address, and puts the sockets in."""

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from voicerelay.shm.bpf import (
    SO_ATTACH_REUSEPORT_EBPF,
    SO_DETACH_REUSEPORT_BPF,
    BpfMap,
    BpfObject,
    BpfUnavailable,
)
from voicerelay.shm.counters import MAX_RELAYS
from voicerelay.shm.region import Sizes

OBJECT = Path(__file__).with_name("steer.bpf.o")
OWNER_BYTES = 8
_U32 = struct.Struct("=I")
_U64 = struct.Struct("=Q")


@dataclass(frozen=True)
class SteeredGroup:
    """Descriptors of one listen address's maps, for control."""

    flows: int
    routes: int
    generations: int
    counters: int

    def close(self) -> None:
        for fd in (self.flows, self.routes, self.generations, self.counters):
            os.close(fd)


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

        def descriptor(fd: int) -> int:
            opened.callback(os.close, fd)
            return fd

        places = dict(enumerate(relays))
        places |= {MAX_RELAYS + slot: sock for slot, sock in enumerate(transceivers)}
        members = BpfMap(descriptor(program.map_fd("sockets")), _U64.size)
        for index, sock in places.items():
            members.put(_U32.pack(index), _U64.pack(sock.fileno()))
        number = BpfMap(descriptor(program.map_fd("relays")), _U32.size)
        number.put(_U32.pack(0), _U32.pack(len(relays)))
        # One member is enough: the program belongs to the group, as long as any member lives.
        steer = descriptor(program.program_fd("steer"))
        relays[0].setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF, steer)
        return SteeredGroup(
            *(program.map_fd(name) for name in ("flows", "routes", "generations", "counters"))
        )


def _explain(exc: OSError) -> str:
    if exc.errno in (errno.EPERM, errno.EACCES):
        return (
            "no permission to load it: needs CAP_BPF (systemd: AmbientCapabilities=CAP_BPF) or root"
        )
    if exc.errno in (errno.ENOSYS, errno.EINVAL):
        return f"this kernel does not take it ({exc.strerror})"
    return str(exc.strerror or exc)
