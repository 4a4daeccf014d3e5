"""The maps of kernel steering: equal to the tables, for each listen address, whatever went before."""

import logging
import os
import select
import socket
import struct
from collections.abc import Iterator
from dataclasses import asdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.system.conftest import steering_unavailable
from voicerelay.control import plane as module
from voicerelay.control.plane import Plane, SteeringPlane
from voicerelay.control.records import Records
from voicerelay.relay.steering import load
from voicerelay.shm import stun
from voicerelay.shm.bpf import BpfMap, possible_cpus
from voicerelay.shm.counters import BLOCK_BYTES, Block, ControlCounter
from voicerelay.shm.path import address_path, pack_path
from voicerelay.shm.region import MIN_CAPACITY, Sizes
from voicerelay.shm.table import RECORD_BYTES, Entry, TableWriter

SIZES = Sizes.for_capacity(MIN_CAPACITY)
LOCALS = 2  # listen addresses
RELAY, TRANSCEIVER_0, TRANSCEIVER_1 = range(3)
OWNER = struct.Struct("=II")
U32 = struct.Struct("=I")
UFRAG, OTHER_UFRAG = b"AAAAbbbbCCCCdddd0001", b"AAAAbbbbCCCCdddd0002"
RTP = b"\x80\x6f" + bytes(170)
PATIENCE_MS = 5_000

# Few keys, so that drift overwrites, misses and hits; flows also of a listen address without a map.
UFRAGS = st.integers(0, 9).map(b"AAAAbbbbCCCCdddd%04d".__mod__)
PATHS = st.builds(pack_path, st.integers(0, LOCALS), st.just("192.0.2.1"), st.integers(1, 6))
ENTRIES = st.builds(Entry, st.integers(0, 3), st.integers(1, 5), st.just(1), st.just(0))
STEPS = st.lists(
    st.tuples(st.sampled_from(("table", "map")), UFRAGS | PATHS, st.none() | ENTRIES), max_size=30
)


class World:
    """Two listen addresses with one relay and two transceivers, tables, and the maps as they are."""

    def __init__(self) -> None:
        first = [bound("127.0.0.1", 0) for _ in range(LOCALS)]
        addresses = [sock.getsockname() for sock in first]
        self.sockets = [first, *([bound(*a) for a in addresses] for _ in range(2))]
        self.groups = load(self.sockets[:1], self.sockets[1:], SIZES)
        self.routes, self.flows = empty_table(SIZES.routes), empty_table(SIZES.flows)
        self.plane = SteeringPlane([asdict(group) for group in self.groups])
        self.client = bound("127.0.0.1", 0)
        self.route_maps = [BpfMap(group.routes, OWNER.size) for group in self.groups]
        self.flow_maps = [BpfMap(group.flows, OWNER.size) for group in self.groups]

    def steered(self) -> "World":
        """With the plane attached and both transceivers alive in generation 1."""
        self.plane.take_over(self.routes, self.flows)
        for slot in (0, 1):
            self.plane.alive(slot, 1)
        return self

    def forget(self) -> None:
        """Tables and maps as at first; the tables are not mirrored."""
        self.routes.mirror = self.flows.mirror = None
        for table in (self.routes, self.flows):
            for key in dict(table.items()):
                table.remove(key)
        for one in (*self.route_maps, *self.flow_maps):
            for key in list(one.keys(20)):
                one.remove(key)

    def path(self, local: int) -> bytes:
        return address_path(local, self.client.getsockname())

    def reader_of(self, data: bytes, local: int = 0) -> int:
        """The process whose socket gets a datagram of the client."""
        poll = select.poll()
        for sockets in self.sockets:
            poll.register(sockets[local], select.POLLIN)
        self.client.sendto(data, self.sockets[0][local].getsockname())
        ((fd, _),) = poll.poll(PATIENCE_MS)
        (reader,) = (n for n, sockets in enumerate(self.sockets) if sockets[local].fileno() == fd)
        assert self.sockets[reader][local].recv(2048) == data
        return reader

    def close(self) -> None:
        self.client.close()
        for sockets in self.sockets:
            for sock in sockets:
                sock.close()
        for group in self.groups:
            group.close()


def bound(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((host, port))
    return sock


def empty_table(records: int) -> TableWriter:
    memory = memoryview(bytearray(records * RECORD_BYTES)), memoryview(bytearray(4))
    return TableWriter(*memory, records // 2)


def content(one: BpfMap) -> dict[bytes, tuple[int, int]]:
    """Key -> (slot, generation) of a map of routes or flows."""
    found = {}
    for key in list(one.keys(20)):
        value = one.get(key)
        assert value is not None
        found[key] = OWNER.unpack(value)
    return found


def expected_flows(flows: TableWriter, local: int) -> dict[bytes, tuple[int, int]]:
    items = flows.items()
    return {b"\0" + k[1:]: (e.slot, e.generation) for k, e in items if k[0] == local}


def check(ufrag: bytes) -> bytes:
    return stun.build(stun.BINDING_REQUEST, bytes(12), [(stun.USERNAME, ufrag + b":t")])


@pytest.fixture
def world() -> Iterator[World]:
    if reason := steering_unavailable():
        pytest.skip(f"kernel steering: {reason}")
    made = World()
    yield made
    made.close()


def test_a_flow_goes_to_the_map_of_its_listen_address_only(world: World) -> None:
    world.steered()

    for local in range(LOCALS):
        world.flows.put(world.path(local), Entry(local, 1, 1, 0))

    # Each map has it with the listen address left at 0, as the program looks it up.
    (key,) = content(world.flow_maps[0])
    assert [content(one) for one in world.flow_maps] == [{key: (0, 1)}, {key: (1, 1)}]
    assert key == world.path(0)
    assert [world.reader_of(RTP, 0), world.reader_of(RTP, 1)] == [TRANSCEIVER_0, TRANSCEIVER_1]


def test_a_flow_of_a_listen_address_without_a_map_is_passed_over(world: World) -> None:
    world.steered().flows.put(world.path(LOCALS), Entry(0, 1, 1, 0))
    world.flows.remove(world.path(LOCALS))

    assert [content(one) for one in world.flow_maps] == [{}, {}]


def test_a_route_goes_to_every_listen_address(world: World) -> None:
    world.steered().routes.put(UFRAG, Entry(1, 1, 1, 0))

    assert [content(one) for one in world.route_maps] == [{UFRAG: (1, 1)}] * LOCALS
    assert [world.reader_of(check(UFRAG), local) for local in (0, 1)] == [TRANSCEIVER_1] * 2


def test_what_is_overwritten_moves_and_what_is_removed_goes_to_a_relay(world: World) -> None:
    world.steered()
    for slot, reader in ((0, TRANSCEIVER_0), (1, TRANSCEIVER_1)):
        world.routes.put(UFRAG, Entry(slot, 1, 1, 0))
        world.flows.put(world.path(0), Entry(slot, 1, 1, 0))
        assert [world.reader_of(RTP), world.reader_of(check(UFRAG))] == [reader, reader]

    world.routes.remove(UFRAG)
    world.flows.remove(world.path(0))

    assert [world.reader_of(RTP), world.reader_of(check(UFRAG))] == [RELAY, RELAY]
    assert [content(one) for one in world.route_maps + world.flow_maps] == [{}] * 4


def test_generation_0_voids_every_entry_of_a_slot_at_once_and_of_no_other(world: World) -> None:
    # given a client with a flow and a route to slot 0, and a route to slot 1
    world.steered()
    world.flows.put(world.path(0), Entry(0, 1, 1, 0))
    world.routes.put(UFRAG, Entry(0, 1, 1, 0))
    world.routes.put(OTHER_UFRAG, Entry(1, 1, 2, 0))
    packets = RTP, check(UFRAG), check(OTHER_UFRAG)
    before = [world.reader_of(data) for data in packets]

    # when slot 0 dies, and its successor comes
    world.plane.alive(0, 0)
    dead = [world.reader_of(data) for data in packets]
    world.plane.alive(0, 2)
    successor = [world.reader_of(data) for data in packets]

    # then its entries lead to a relay, and stay void; those of the successor lead to it
    assert before == [TRANSCEIVER_0, TRANSCEIVER_0, TRANSCEIVER_1]
    assert dead == successor == [RELAY, RELAY, TRANSCEIVER_1]
    world.flows.put(world.path(0), Entry(0, 2, 1, 0))
    assert world.reader_of(RTP) == TRANSCEIVER_0


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(STEPS)
def test_take_over_makes_the_maps_equal_to_the_tables_whatever_they_held(
    world: World, steps: list[tuple[str, bytes, Entry | None]]
) -> None:
    """A control died: the maps are where it left them, or where anything else did."""
    # given maps and tables that drifted apart
    world.forget()
    for where, key, entry in steps:
        one = world.routes if key.startswith(b"AAAA") else world.flows
        maps = world.route_maps if one is world.routes else world.flow_maps
        if where == "map":
            drifted = maps[key[-1] % LOCALS]
            own = key if one is world.routes else b"\0" + key[1:]
            drifted.remove(own) if entry is None else drifted.put(own, OWNER.pack(*entry[:2]))
        elif entry is None:
            one.remove(key)
        else:
            one.put(key, entry)

    # when control takes them over, and then writes on
    world.plane.take_over(world.routes, world.flows)
    world.routes.put(UFRAG, Entry(2, 2, 2, 0))

    # then they are equal
    routes = {key: (e.slot, e.generation) for key, e in world.routes.items()}
    assert [content(one) for one in world.route_maps] == [routes] * LOCALS
    for local, flow_map in enumerate(world.flow_maps):
        assert content(flow_map) == expected_flows(world.flows, local)


def test_a_long_take_over_gives_signs_of_life(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given maps that hold what the tables do not, and tables that hold what the maps do not
    monkeypatch.setattr(module, "PROGRESS_WRITES", 1)
    world.forget()
    for number in range(4):
        world.route_maps[0].put(b"AAAAbbbbCCCCdddd%04d" % number, OWNER.pack(0, 1))
    world.flows.put(world.path(0), Entry(0, 1, 1, 0))
    signs: list[None] = []

    world.plane.take_over(world.routes, world.flows, lambda: signs.append(None))

    assert len(signs) == 4 + 4 + 1  # keys looked at, keys removed, an entry written


def test_what_is_void_leaves_the_maps_as_it_is_swept(world: World) -> None:
    # given a flow of a transceiver that died, beside another's
    world.steered()
    records = Records(world.flows)
    records.put(world.path(0), Entry(0, 1, 1, 0))
    records.put(world.path(1), Entry(1, 1, 1, 0))

    records.void_owner((0, 1))
    before = [len(content(one)) for one in world.flow_maps]
    records.sweep(1)

    assert before == [1, 1]
    assert [content(one) for one in world.flow_maps] == [{}, expected_flows(world.flows, 1)]


def test_a_full_map_is_logged_and_what_is_not_in_it_goes_to_a_relay(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    # given a map that strange keys fill
    world.steered()
    strange = [pack_path(0, "192.0.2.9", port) for port in range(1, SIZES.flows // 2 + 1)]
    for key in strange:
        world.flow_maps[0].put(key, OWNER.pack(0, 1))

    # when a flow comes
    with caplog.at_level(logging.WARNING, "voicerelay.control"):
        world.flows.put(world.path(0), Entry(0, 1, 1, 0))

    # then the table has it, the kernel does not, and one line says why
    (record,) = caplog.records
    assert "kernel steering" in record.getMessage()
    assert os.strerror(7) in record.getMessage()  # E2BIG
    assert world.flows.find(world.path(0)) == Entry(0, 1, 1, 0)
    assert world.reader_of(RTP) == RELAY

    # and once there is room, the next take-over brings it in
    world.plane.take_over(world.routes, world.flows)
    assert world.reader_of(RTP) == TRANSCEIVER_0


def test_counters_add_up_over_cpus_and_listen_addresses(world: World) -> None:
    # given another figure for every counter, CPU and listen address
    cpus = possible_cpus()
    totals = [0] * 4
    for local, group in enumerate(world.groups):
        for index in range(4):
            values = [1000 * local + 100 * index + cpu + 1 for cpu in range(cpus)]
            packed = struct.pack(f"={cpus}Q", *values)
            BpfMap(group.counters, 8 * cpus).put(U32.pack(index), packed)
            totals[index] += sum(values)
    block = Block(memoryview(bytearray(BLOCK_BYTES)).cast("Q"))

    world.plane.count(block)

    assert [
        block.get(ControlCounter.STEERED_BY_FLOW),
        block.get(ControlCounter.STEERED_BY_UFRAG),
        block.get(ControlCounter.STEERED_TO_RELAY),
        block.get(ControlCounter.STEERED_DROPPED_NO_RELAY),
    ] == totals


def test_every_cpu_counts_what_it_steers(world: World) -> None:
    world.steered().flows.put(world.path(0), Entry(0, 1, 1, 0))
    cpus = os.sched_getaffinity(0)
    try:
        for cpu in cpus:
            os.sched_setaffinity(0, {cpu})
            assert world.reader_of(RTP) == TRANSCEIVER_0
    finally:
        os.sched_setaffinity(0, cpus)
    block = Block(memoryview(bytearray(BLOCK_BYTES)).cast("Q"))

    world.plane.count(block)

    assert block.get(ControlCounter.STEERED_BY_FLOW) == len(cpus)


def test_the_portable_plane_writes_nothing_beside_the_tables() -> None:
    plane, routes, flows = Plane(), empty_table(SIZES.routes), empty_table(SIZES.flows)

    plane.take_over(routes, flows)
    plane.alive(0, 1)

    assert routes.mirror is flows.mirror is None
