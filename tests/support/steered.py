"""The kernel's program on real socket groups, with the tables that its maps mirror, and a Router beside it."""

import select
import socket
from collections import Counter
from dataclasses import asdict
from functools import partial
from itertools import chain

from voicerelay.control.plane import SteeringPlane
from voicerelay.relay.route import Destination, Router
from voicerelay.relay.steering import load
from voicerelay.shm.counters import BLOCK_BYTES, Block, ControlCounter, RelayCounter
from voicerelay.shm.path import Address, address_path
from voicerelay.shm.region import MIN_CAPACITY, Sizes
from voicerelay.shm.table import RECORD_BYTES, Entry, TableWriter

HOSTS = ("127.0.0.1", "::1", "::ffff:127.0.0.1")  # the last: an IPv6 socket that hears IPv4
RELAYS, TRANSCEIVERS, SLOTS = (0, 1), (2, 3), (None, None, 0, 1)  # of four processes
ALIVE = {0: 7, 1: 9}  # slot -> generation
DEAD = 3  # a generation that slot 0 had before
UFRAG_0, UFRAG_1, STALE, UNKNOWN = (b"AAAAbbbbCCCCdddd000%d" % number for number in range(4))
PATIENCE_MS = 5_000
CLIENTS = FLOW_0, FLOW_1, STALE_FLOW, STRANGER = range(4)


def bind(host: str, port: int = 0) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((host, port))
    return sock


class Steered:
    """Groups of relay and transceiver sockets under the program, and tables that it mirrors."""

    def __init__(self) -> None:
        self.sockets = [[bind(host) for host in HOSTS]]  # [process][listen address]
        self.ports = [sock.getsockname()[1] for sock in self.sockets[0]]
        for _ in range(3):
            self.sockets.append([bind(*pair) for pair in zip(HOSTS, self.ports, strict=True)])
        sizes = Sizes.for_capacity(MIN_CAPACITY)
        self._maps = load(self.sockets[:2], self.sockets[2:], sizes)
        self.routes, self.flows = (
            TableWriter(memoryview(bytearray(n * RECORD_BYTES)), memoryview(bytearray(4)), n // 2)
            for n in (sizes.routes, sizes.flows)
        )
        self.plane = SteeringPlane([asdict(group) for group in self._maps])
        self.plane.take_over(self.routes, self.flows)
        for slot, generation in ALIVE.items():
            self.plane.alive(slot, generation)
        for name, slot, generation in ((UFRAG_0, 0, 7), (UFRAG_1, 1, 9), (STALE, 0, DEAD)):
            self.routes.put(name, Entry(slot, generation, 1, 0))
        self.clients = [self._clients_of(local) for local in range(len(HOSTS))]

    def _clients_of(self, local: int) -> list[socket.socket]:
        server = HOSTS[local].removeprefix("::ffff:")
        hosts = ["::1"] * 4 if server == "::1" else [f"127.0.0.{number}" for number in (1, 2, 1, 3)]
        found = [bind(host) for host in hosts]
        for client, sock in zip(CLIENTS, found, strict=True):
            sock.connect((server, self.ports[local]))
            if client != STRANGER:
                path = address_path(local, sock.getsockname())
                generation = DEAD if client == STALE_FLOW else ALIVE[client]
                self.flows.put(path, Entry(client % 2, generation, 1, 0))
        return found

    def send(self, local: int, client: int, data: bytes) -> tuple[int, Address]:
        """Which process's socket the kernel chose for a datagram, and the sender it shows."""
        poll, owners = select.poll(), {}
        for process, sockets in enumerate(self.sockets):
            if sockets[local].fileno() >= 0:
                owners[sockets[local].fileno()] = process
                poll.register(sockets[local], select.POLLIN)
        self.clients[local][client].send(data)
        ((fd, _),) = poll.poll(PATIENCE_MS)
        received, address = self.sockets[owners[fd]][local].recvfrom(1 << 16)
        assert received == data
        return owners[fd], address

    def router(self, local: int) -> Router[Address]:
        return Router(0, self.routes, self.flows, partial(address_path, local))

    def counted(self) -> Counter[str]:
        block = Block(memoryview(bytearray(BLOCK_BYTES)).cast("Q"))
        self.plane.count(block)
        return Counter({c.name: block.get(c) for c in ControlCounter if "STEERED" in c.name})

    def close(self) -> None:
        for sock in chain(*self.sockets, *self.clients):
            sock.close()
        for group in self._maps:
            group.close()


def alive_slot(decision: Destination | RelayCounter) -> int | None:
    """Where the Router sends it; relay/links.py drops what is for a dead transceiver."""
    if isinstance(decision, Destination) and decision.target in ALIVE.items():
        return decision.target[0]
    return None
