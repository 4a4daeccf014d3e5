"""Kernel steering: loads the program of `steer.bpf.c`, one for each listen address, and puts the sockets in."""

import errno
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from voicerelay.shm.bpf import (
    SO_ATTACH_REUSEPORT_EBPF,
    BpfMap,
    BpfObject,
    BpfUnavailable,
    possible_cpus,
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
        for group in groups:
            group.close()
        raise BpfUnavailable(_explain(exc)) from exc
    return groups


def _load_group(
    relays: Sequence[socket.socket], transceivers: Sequence[socket.socket], sizes: Sizes
) -> SteeredGroup:
    program = BpfObject(OBJECT)
    try:
        program.resize("flows", sizes.flows // 2)
        program.resize("routes", sizes.routes // 2)
        program.load()
        group = SteeredGroup(
            *(program.map_fd(name) for name in ("flows", "routes", "generations", "counters"))
        )
        places = dict(enumerate(relays))
        places |= {MAX_RELAYS + slot: sock for slot, sock in enumerate(transceivers)}
        sockets = BpfMap(program.map_fd("sockets"), _U64.size)
        for index, sock in places.items():
            sockets.put(_U32.pack(index), _U64.pack(sock.fileno()))
        number = BpfMap(program.map_fd("relays"), _U32.size)
        number.put(_U32.pack(0), _U32.pack(len(relays)))
        steer = program.program_fd("steer")
        # One member is enough: the program belongs to the group, as long as any member lives.
        relays[0].setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF, steer)
        for fd in (sockets.fd, number.fd, steer):
            os.close(fd)
        return group
    finally:
        program.close()


def counter_map(fd: int) -> BpfMap:
    """The per-CPU counters of a group."""
    return BpfMap(fd, _U64.size * possible_cpus())


def _explain(exc: OSError) -> str:
    if exc.errno in (errno.EPERM, errno.EACCES):
        return (
            "no permission to load it: needs CAP_BPF (systemd: AmbientCapabilities=CAP_BPF) or root"
        )
    if exc.errno in (errno.ENOSYS, errno.EINVAL):
        return f"this kernel does not take it ({exc.strerror})"
    return str(exc.strerror or exc)
