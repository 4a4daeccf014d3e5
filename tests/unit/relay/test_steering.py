"""The kernel's program beside the Router: over one corpus the two never disagree about an owner."""

import logging
import random
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.support.steered import (
    ALIVE,
    CLIENTS,
    FLOW_0,
    FLOW_1,
    HOSTS,
    RELAYS,
    SLOTS,
    STALE,
    STRANGER,
    TRANSCEIVERS,
    UFRAG_0,
    UFRAG_1,
    UNKNOWN,
    Steered,
    alive_slot,
    bind,
)
from tests.system.conftest import steering_unavailable
from voicerelay.relay.demux import KINDS, Kind
from voicerelay.relay.route import Destination
from voicerelay.shm import stun
from voicerelay.shm.counters import RelayCounter
from voicerelay.shm.frame import MAX_DATAGRAM_BYTES
from voicerelay.shm.path import address_path, pack_path
from voicerelay.shm.table import Entry, TableWriter

SEED = 20_261_123
CHECKS = 4_000  # and as many damaged ones
LOOKED_AT = 8  # MAX_ATTRIBUTES of the program
RTP = b"\x80\x6f" + bytes(170)
BY_FLOW = {FLOW_0: 0, FLOW_1: 1}  # slots


class Packet(NamedTuple):
    client: int
    data: bytes
    owner: int | None  # the slot that must get it, None: a relay, -1: only the laws decide


@pytest.fixture
def steered() -> Iterator[Steered]:
    if reason := steering_unavailable():
        pytest.skip(f"kernel steering: {reason}")
    world = Steered()
    yield world
    world.close()


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


@pytest.mark.parametrize("local", [0, 2], ids=[HOSTS[0], HOSTS[2]])
def test_an_ipv4_client_is_the_same_by_whatever_socket_it_sends(
    steered: Steered, local: int
) -> None:
    # given a client with a dual-stack IPv6 socket, and the flow of its IPv4 address
    client = bind("::ffff:127.0.0.1")
    client.connect(("::ffff:127.0.0.1", steered.ports[local]))
    steered.clients[local].append(client)
    port = client.getsockname()[1]
    steered.flows.put(pack_path(local, "127.0.0.1", port), Entry(1, ALIVE[1], 1, 0))

    # when it sends to a listen address of IPv4, or to one of IPv6 that hears IPv4
    process, address = steered.send(local, len(steered.clients[local]) - 1, RTP)

    # then both forms are one path, to the kernel and to the Router
    assert address_path(local, address) == pack_path(local, "::ffff:127.0.0.1", port)
    assert SLOTS[process] == alive_slot(steered.router(local).decide(RTP, address)) == 1
