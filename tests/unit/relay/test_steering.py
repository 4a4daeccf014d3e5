"""The kernel's program beside the Router: over one corpus the two never disagree about an owner."""

import logging
import random
import select
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from itertools import chain
from typing import NamedTuple

import pytest

from tests.system.conftest import steering_unavailable
from voicerelay.control.plane import SteeringPlane
from voicerelay.relay.demux import KINDS, Kind
from voicerelay.relay.route import Destination, Router
from voicerelay.relay.steering import load
from voicerelay.shm import stun
from voicerelay.shm.counters import BLOCK_BYTES, Block, ControlCounter, RelayCounter
from voicerelay.shm.frame import MAX_DATAGRAM_BYTES
from voicerelay.shm.path import Address, address_path
from voicerelay.shm.region import MIN_CAPACITY, Sizes
from voicerelay.shm.table import RECORD_BYTES, Entry, TableWriter

SEED = 20_261_123
CHECKS = 4_000  # and as many damaged ones
HOSTS = ("127.0.0.1", "::1", "::ffff:127.0.0.1")  # the last: an IPv6 socket that hears IPv4
RELAYS, TRANSCEIVERS, SLOTS = (0, 1), (2, 3), (None, None, 0, 1)  # of four processes
ALIVE = {0: 7, 1: 9}  # slot -> generation
DEAD = 3  # a generation that slot 0 had before
UFRAG_0, UFRAG_1, STALE, UNKNOWN = (b"AAAAbbbbCCCCdddd000%d" % number for number in range(4))
LOOKED_AT = 8  # MAX_ATTRIBUTES of the program
PATIENCE_MS = 5_000
RTP = b"\x80\x6f" + bytes(170)
CLIENTS = FLOW_0, FLOW_1, STALE_FLOW, STRANGER = range(4)
BY_FLOW = {FLOW_0: 0, FLOW_1: 1}  # slots


class Packet(NamedTuple):
    client: int
    data: bytes
    owner: int | None  # the slot that must get it, None: a relay, -1: only the laws decide


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


@pytest.fixture
def steered() -> Iterator[Steered]:
    if reason := steering_unavailable():
        pytest.skip(f"kernel steering: {reason}")
    world = Steered()
    yield world
    world.close()


def alive_slot(decision: Destination | RelayCounter) -> int | None:
    """Where the Router sends it; relay/links.py drops what is for a dead transceiver."""
    if isinstance(decision, Destination) and decision.target in ALIVE.items():
        return decision.target[0]
    return None


def every_first_byte(rng: random.Random) -> Iterator[Packet]:
    """Every first byte with every small length; some of them under the header of STUN."""
    for first in range(256):
        for length in range(65):
            client = rng.choice(CLIENTS)
            data = (bytes([first]) + rng.randbytes(64))[:length]
            owner = (
                BY_FLOW.get(client) if length and KINDS[first] in (Kind.DTLS, Kind.RTP) else None
            )
            if first < 8 and length >= 20 and rng.random() < 0.5:
                data = data[:2] + (length - 20).to_bytes(2, "big") + stun.COOKIE + data[8:]
                stun_owner = -1 if data[:2] == b"\0\1" else BY_FLOW.get(client)
                owner = stun_owner if first < 4 else None
            yield Packet(client, data, owner)


def media(rng: random.Random) -> Iterator[Packet]:
    """DTLS, RTP and RTCP of all sizes, up to and beyond the longest that is taken."""
    for head in (b"\x16\xfe\xfd", b"\x17\xfe\xfd", b"\x80\x6f", b"\x90\xef", b"\x80\xc8"):
        for size in (1, 12, 172, 1200, 1500, 2047, 2048, 2049, 4000, 60_000):
            for client in CLIENTS:
                owner = BY_FLOW.get(client) if size <= MAX_DATAGRAM_BYTES else None
                yield Packet(client, (head + rng.randbytes(size))[:size], owner)


NAME, OURS, THEIRS = stun.USERNAME, UFRAG_0 + b":theirs", UFRAG_1 + b":theirs"
USERNAMES: list[tuple[list[tuple[int, bytes]], int | None]] = [
    ([(NAME, OURS)], 0),
    ([(NAME, UFRAG_1 + b":")], 1),
    ([(NAME, UFRAG_0 + b":" + b"t" * 492)], 0),  # 513 bytes, the longest allowed
    ([(NAME, OURS), (NAME, THEIRS)], 0),
    ([(NAME, UNKNOWN + b":x"), (NAME, THEIRS)], None),
    ([(stun.MESSAGE_INTEGRITY, bytes(20)), (NAME, OURS)], None),
    ([(stun.MESSAGE_INTEGRITY_SHA256, bytes(32)), (NAME, THEIRS)], 1),
    ([(NAME, UFRAG_0[:19] + b":theirs")], None),
    ([(NAME, UFRAG_0 + b"x:theirs")], None),
    ([(NAME, UFRAG_0 + b"theirs")], None),
    ([(NAME, b"")], None),
    ([(NAME, STALE + b":theirs")], None),
    ([(0x8022, OURS)], None),
]
TYPES = (*[stun.BINDING_REQUEST] * 6, stun.BINDING_SUCCESS, stun.BINDING_INDICATION, 0x0003)


def checks(rng: random.Random) -> Iterator[Packet]:
    """STUN with USERNAME at every place and of every form, each also damaged."""
    for _ in range(CHECKS):
        client, type_ = rng.choice(CLIENTS), rng.choice(TYPES)
        others = rng.choices((0x8022, 0x0024, 0x7777), k=rng.choice((0, 0, 1, 3, 6, 7, 8, 9, 12)))
        before = [(other, rng.randbytes(rng.randrange(13))) for other in others]
        names, owner = rng.choice(USERNAMES)
        data = stun.build(type_, rng.randbytes(12), before + names, rng.choice((b"key", None)))
        if type_ != stun.BINDING_REQUEST:
            owner = BY_FLOW.get(client)
        elif before_username(data) >= LOOKED_AT:
            owner = None
        yield Packet(client, data, owner)
        yield Packet(client, damaged(rng, data), -1)


def damaged(rng: random.Random, data: bytes) -> bytes:
    """One of the ways in which a message is broken."""
    spoilt = bytearray(data)
    match rng.randrange(5):
        case 0:  # the header's length field
            spoilt[2:4] = rng.choice((len(data) - 16, len(data), 0xFFFF)).to_bytes(2, "big")
            return bytes(spoilt)
        case 1:  # any bytes
            for _ in range(rng.randrange(1, 4)):
                spoilt[rng.randrange(len(spoilt))] = rng.randrange(256)
            return bytes(spoilt)
        case 2:  # the first attribute's length
            spoilt[22:24] = rng.choice((0, 1, 21, len(data), 0xFFFC, 0xFFFF)).to_bytes(2, "big")
        case 3:  # cut, also inside an attribute
            del spoilt[rng.randrange(4, len(spoilt)) & rng.choice((~3, ~0)) :]
        case _:  # no multiple of 4
            spoilt += bytes(rng.randrange(1, 4))
    spoilt[2:4] = max(len(spoilt) - 20, 0).to_bytes(2, "big")  # the header agrees
    return bytes(spoilt)


def before_username(data: bytes) -> int:
    at, number = stun.HEADER_BYTES, 0
    while at + 4 <= len(data) and data[at : at + 2] != b"\0\x06":
        at += 4 + (int.from_bytes(data[at + 2 : at + 4], "big") + 3 & ~3)
        number += 1
    return number


def objection(
    routes: TableWriter, packet: Packet, slot: int | None, decision: Destination | RelayCounter
) -> str:
    """The law that kernel and Router break together; empty when they keep them all."""
    routed = alive_slot(decision)
    if packet.owner not in (-1, slot):
        return f"it must go to {packet.owner}"
    if slot is not None and routed != slot:
        return "the kernel gives it to another than the Router"
    if slot is None and routed is not None and before_username(packet.data) < LOOKED_AT:
        return "the kernel leaves it to a relay without need"
    if packet.data[:2] == b"\0\1" and isinstance(decision, Destination):
        try:
            name = (stun.parse(packet.data).username or b"").partition(b":")[0]
        except stun.StunError:
            return ""
        entry = routes.find(name)
        if entry is None or entry[:2] != decision.target:
            return "the transceiver reads another ufrag"
    return ""


@pytest.mark.parametrize("local", range(len(HOSTS)), ids=HOSTS)
def test_kernel_and_router_never_disagree_about_an_owner(steered: Steered, local: int) -> None:
    # given the kernel's group and a Router on the tables that its maps mirror
    rng = random.Random(SEED)
    router = steered.router(local)
    packets = [*every_first_byte(rng), *media(rng), *checks(rng)]
    failures, unusual, chosen = [], 0, Counter[object]()

    # when both get the same packets
    for number, packet in enumerate(packets):
        process, address = steered.send(local, packet.client, packet.data)
        slot, decision = SLOTS[process], router.decide(packet.data, address)
        if why := objection(steered.routes, packet, slot, decision):
            failures.append(f"{number}: {why}; {slot=} {decision=} {packet}")
        unusual += slot is None and alive_slot(decision) is not None
        chosen["ufrag" if slot is not None and packet.data[:2] == b"\0\1" else process] += 1

    # then every law holds, each packet is counted once, and little is left to the relays
    assert not failures, f"seed {SEED}, {len(failures)} of {len(packets)}: {failures[0]}"
    assert len(packets) > 20_000
    assert all(chosen[one] for one in (*TRANSCEIVERS, "ufrag"))
    assert steered.counted() == Counter(
        STEERED_BY_FLOW=chosen[2] + chosen[3],
        STEERED_BY_UFRAG=chosen["ufrag"],
        STEERED_TO_RELAY=chosen[0] + chosen[1],
    )
    logging.getLogger(__name__).info("USERNAME too far back: %d of %d", unusual, len(packets))
    assert 0 < unusual < len(packets) // 25


@pytest.mark.parametrize("length", [513, 514, 1600])  # RFC 8489 §14.3
def test_a_username_longer_than_allowed_is_not_steered(steered: Steered, length: int) -> None:
    name = (UFRAG_0 + b":").ljust(length, b"t")
    data = stun.build(stun.BINDING_REQUEST, bytes(12), [(stun.USERNAME, name)])

    process, address = steered.send(0, STRANGER, data)

    expected, decision = 0 if length == 513 else None, steered.router(0).decide(data, address)
    assert (SLOTS[process], alive_slot(decision)) == (expected, expected)


def test_without_relays_calls_go_on_and_strangers_are_counted(steered: Steered) -> None:
    for process in RELAYS:
        steered.sockets[process][0].close()

    steered.clients[0][STRANGER].send(RTP)

    assert [steered.send(0, client, RTP)[0] for client in (FLOW_0, FLOW_1)] == [*TRANSCEIVERS]
    assert steered.counted() == Counter(STEERED_BY_FLOW=2, STEERED_DROPPED_NO_RELAY=1)


def test_what_a_closed_transceiver_socket_would_get_goes_to_a_relay(steered: Steered) -> None:
    steered.sockets[TRANSCEIVERS[1]][0].close()

    assert steered.send(0, FLOW_1, RTP)[0] in RELAYS
    assert steered.send(0, FLOW_0, RTP)[0] == TRANSCEIVERS[0]
