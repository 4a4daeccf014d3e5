"""The relay's loop in C beside the Router: over one corpus each packet has the same end, in the same order."""

import asyncio
import random
import re
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import pytest

from tests.support.steered import (
    ALIVE,
    CLIENTS,
    DEAD,
    FLOW_0,
    HOSTS,
    STALE,
    STALE_FLOW,
    STRANGER,
    UFRAG_0,
    UFRAG_1,
    bind,
)
from tests.unit.relay.test_loop import RTP, SLOT, Relay, until
from tests.unit.relay.test_steering import SEED, Packet, checks, every_first_byte, media
from voicerelay.relay import fastpath, links, loop, pace
from voicerelay.relay.fastpath import LIBRARY, FastPath, FastPathMissing
from voicerelay.relay.route import Destination, Router
from voicerelay.shm import counters, frame, path, stun, table, ufrag
from voicerelay.shm.counters import BLOCK_BYTES, Block, RelayCounter
from voicerelay.shm.path import Address, address_path
from voicerelay.shm.rundir import frames_socket
from voicerelay.shm.table import RECORD_BYTES, Entry, TableWriter

SOURCE = Path(fastpath.__file__).with_name("fastpath.c")
RECORDS = 64
GROUP, GROUP_BYTES = 24, 64_000  # packets under way at once: fewer than a socket's buffer holds
DROPS = {counter for counter in RelayCounter if counter.name.startswith("DROPPED")}
needs_library = pytest.mark.skipif(not LIBRARY.exists(), reason="no C compiler was there")


class Transceivers:
    """Listening ends for the targets that are alive."""

    def __init__(self, run_dir: Path) -> None:
        self.listeners = {}
        self._links: dict[tuple[int, int], socket.socket] = {}
        for target in ALIVE.items():
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            listener.bind(str(frames_socket(run_dir, *target)))
            listener.listen(1)
            listener.setblocking(False)
            self.listeners[target] = listener

    def entries(self, target: tuple[int, int]) -> Iterator[tuple[int, bytes, bytes]]:
        """Every entry that has arrived at one of them."""
        try:
            if target not in self._links:
                self._links[target], _ = self.listeners[target].accept()
                self._links[target].setblocking(False)
            while data := self._links[target].recv(frame.MAX_FRAME_BYTES + 1):
                yield from frame.split_frame(data)
        except BlockingIOError:
            return

    def close(self) -> None:
        for sock in chain(self.listeners.values(), self._links.values()):
            sock.close()


class World:
    """The loop in C on one public socket, clients with and without a flow, and a Router to compare."""

    def __init__(self, run_dir: Path, host: str) -> None:
        self.block = Block(memoryview(bytearray(BLOCK_BYTES)).cast("Q"))
        self.routes, self.flows = (
            TableWriter(
                memoryview(bytearray(RECORDS * RECORD_BYTES)),
                memoryview(bytearray(4)),
                RECORDS // 2,
            )
            for _ in range(2)
        )
        for name, slot, generation in ((UFRAG_0, 0, 7), (UFRAG_1, 1, 9), (STALE, 0, DEAD)):
            self.routes.put(name, Entry(slot, generation, 1, 0))
        self.public = bind(host)
        port = self.public.getsockname()[1]
        self.clients = []
        server = host.removeprefix("::ffff:")
        hosts = ["::1"] * 4 if server == "::1" else [f"127.0.0.{n}" for n in (1, 2, 1, 3)]
        for client, client_host in zip(CLIENTS, hosts, strict=True):
            sock = bind(client_host)
            sock.connect((server, port))
            self.clients.append(sock)
            if client != STRANGER:
                generation = DEAD if client == STALE_FLOW else ALIVE[client]
                self.flows.put(self.path(client), Entry(client % 2, generation, 1, 0))
        self.transceivers = Transceivers(run_dir)
        self.fast = FastPath(run_dir, self.block, 0.0, self.routes, self.flows)
        self.router = Router[Address](0, self.routes, self.flows, partial(address_path, 0))

    def path(self, client: int) -> bytes:
        return address_path(0, self.clients[client].getsockname())

    def expected(self, packet: Packet) -> Destination | RelayCounter:
        return self.router.decide(packet.data, self.clients[packet.client].getsockname())

    async def received(self, count: int) -> None:
        await until(lambda: self.block.get(RelayCounter.PACKETS_RECEIVED) >= count)

    def dropped(self) -> Counter[RelayCounter]:
        return Counter({c: self.block.get(c) for c in DROPS if self.block.get(c)})

    def __enter__(self) -> "World":
        self.fast.hold(0, [self.public.dup()])
        return self

    def __exit__(self, *_: object) -> None:
        self.fast.close()
        self.transceivers.close()
        for sock in (self.public, *self.clients):
            sock.close()


def groups(packets: list[Packet]) -> Iterator[list[Packet]]:
    """As many as may be under way at once."""
    group: list[Packet] = []
    size = 0
    for packet in packets:
        if len(group) == GROUP or (group and size + len(packet.data) > GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append(packet)
        size += len(packet.data)
    yield group


def half_written(written: TableWriter, key: bytes) -> Callable[[], None]:
    """Leave a key's record as a killed writer does; what mends it."""
    found = written.locate(key)
    assert found is not None
    place, sequence, _ = found
    written.sequences[place] = sequence | 1

    def mend() -> None:
        written.sequences[place] = sequence

    return mend


@needs_library
@pytest.mark.parametrize("host", HOSTS)
def test_the_loop_in_c_and_the_router_decide_alike(tmp_path: Path, host: str) -> None:
    async def run() -> None:
        # given a seeded corpus and the same tables for both
        rng = random.Random(SEED)
        packets = [*every_first_byte(rng), *media(rng), *checks(rng)]
        expected: defaultdict[tuple[int, int], list[tuple[int, bytes, bytes]]] = defaultdict(list)
        arrived: defaultdict[tuple[int, int], list[tuple[int, bytes, bytes]]] = defaultdict(list)
        drops = Counter[RelayCounter]()
        with World(tmp_path, host) as world:
            # when both get the same packets
            sent = 0
            for group in groups(packets):
                for packet in group:
                    world.clients[packet.client].send(packet.data)
                    decision = world.expected(packet)
                    if isinstance(decision, RelayCounter):
                        drops[decision] += 1
                    elif decision.target in ALIVE.items():
                        entry = (0, world.path(packet.client), packet.data)
                        expected[decision.target].append(entry)
                    else:
                        drops[RelayCounter.DROPPED_TRANSCEIVER_GONE] += 1
                sent += len(group)
                await world.received(sent)
                for target in ALIVE.items():
                    arrived[target] += world.transceivers.entries(target)

            # then each transceiver has the same entries in the same order, and the rest the same reasons
            assert arrived == expected, f"seed {SEED}"
            assert world.dropped() == drops, f"seed {SEED}"
            assert min(map(len, expected.values())) > 1000
            assert len(drops) >= 7

    asyncio.run(run())


@needs_library
def test_a_half_written_record_is_nobodys(tmp_path: Path) -> None:
    async def run() -> None:
        with World(tmp_path, HOSTS[0]) as world:
            mend = half_written(world.flows, world.path(FLOW_0))

            world.clients[FLOW_0].send(RTP)
            await world.received(1)
            assert world.dropped() == {RelayCounter.DROPPED_UNKNOWN_FLOW: 1}

            mend()
            world.clients[FLOW_0].send(RTP)
            await world.received(2)
            assert world.block.get(RelayCounter.PACKETS_FORWARDED) == 1

    asyncio.run(run())


@needs_library
def test_a_stale_route_does_not_cost_the_successor_its_link(tmp_path: Path) -> None:
    async def run() -> None:
        with World(tmp_path, HOSTS[0]) as world:
            check = stun.build(
                stun.BINDING_REQUEST, bytes(12), [(stun.USERNAME, STALE + b":x")], b"k"
            )

            # when packets for a dead generation of slot 0 and for the living one take turns
            for _ in range(10):
                world.clients[STRANGER].send(check)
                world.clients[FLOW_0].send(RTP)
            await world.received(20)

            # then the living one has all of its own by one link
            assert len([*world.transceivers.entries((0, ALIVE[0]))]) == 10
            assert world.dropped() == {RelayCounter.DROPPED_TRANSCEIVER_GONE: 10}

    asyncio.run(run())


@needs_library
def test_a_transceiver_that_comes_late_or_again_gets_its_packets(tmp_path: Path) -> None:
    async def run() -> None:
        with Relay(tmp_path, listening=False, compiled=True) as relay:
            # given nobody listening
            relay.client.send(RTP)
            await relay.received(1)
            assert relay.get(RelayCounter.DROPPED_TRANSCEIVER_GONE) == 1

            # when it is there, lost, and there again
            for _ in range(2):
                listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                listener.bind(str(frames_socket(tmp_path, SLOT, 8)))
                listener.listen(1)
                before = relay.get(RelayCounter.PACKETS_FORWARDED)
                sent = relay.get(RelayCounter.PACKETS_RECEIVED)
                while relay.get(RelayCounter.PACKETS_FORWARDED) == before:
                    relay.client.send(RTP)
                    sent += 1
                    await relay.received(sent)
                listener.close()
                frames_socket(tmp_path, SLOT, 8).unlink()

            # then each packet was forwarded or counted
            assert relay.balance()[0] == relay.balance()[1]

    asyncio.run(run())


@needs_library
def test_the_thread_beats_only_while_the_event_loop_turns(tmp_path: Path) -> None:
    async def run() -> None:
        with Relay(tmp_path, compiled=True) as relay:
            assert isinstance(relay.forwarder, FastPath)
            relay.forwarder.alive()
            first = relay.block.heartbeat_ns
            await until(lambda: relay.block.heartbeat_ns > first)

            # when the event loop gives no sign of life for long
            relay.forwarder._other_loop_ns.value = 1
            last = relay.block.heartbeat_ns
            end = time.monotonic() + 0.2
            await until(lambda: time.monotonic() > end)

            # then the process seems hung, which it is for control
            assert relay.block.heartbeat_ns - last < 1e8

    asyncio.run(run())


@needs_library
def test_closing_leaves_no_descriptor(tmp_path: Path) -> None:
    async def run() -> None:
        before = sorted(Path("/proc/self/fd").iterdir())
        with Relay(tmp_path, compiled=True) as relay:
            relay.client.send(RTP)
            await relay.received(1)
        relay.forwarder.close()
        assert sorted(Path("/proc/self/fd").iterdir()) == before

    asyncio.run(run())


def test_the_numbers_in_c_are_those_of_python() -> None:
    source = SOURCE.read_text()
    found = {name: int(value) for name, value in re.findall(r"#define (\w+) (\d+)\b", source)}
    (words,) = re.findall(r"HEARTBEAT_NS = 3,(.*?)COUNTERS,", source, re.S)

    assert [word.strip() for word in words.split(",") if word.strip()] == [
        counter.name for counter in RelayCounter
    ]
    assert counters.HEARTBEAT_NS == 3
    assert (
        found
        | {
            "VERSION": fastpath.VERSION,
            "MAX_SOCKETS": counters.MAX_RELAYS * 16,
            "MAX_TRANSCEIVERS": counters.MAX_TRANSCEIVERS,
            "BATCH": loop.MAX_DRAIN,
            "MAX_LOOKS": loop.MAX_LOOKS,
            "MAX_DATAGRAM_BYTES": frame.MAX_DATAGRAM_BYTES,
            "MAX_FRAME_BYTES": frame.MAX_FRAME_BYTES,
            "ENTRY_HEADER_BYTES": frame.ENTRY_HEADER_BYTES,
            "PATH_BYTES": path.PATH_BYTES,
            "KEY_BYTES": table.KEY_BYTES,
            "RECORD_BYTES": table.RECORD_BYTES,
            "MAX_PROBE": table.MAX_PROBE,
            "READ_RETRIES": table.READ_RETRIES,
            "MAX_USERNAME_BYTES": stun.MAX_USERNAME_BYTES,
            "STUN_HEADER_BYTES": stun.HEADER_BYTES,
            "RETRY_NS": round(links.RETRY_S * 1e9),
            "IDLE_WAITS": round(pace.IDLE_WAITS),
        }
        == found
    )
    assert ufrag.UFRAG_BYTES == table.KEY_BYTES
    assert links.SEND_BUFFER_BYTES == 1 << 20


@pytest.mark.parametrize(
    ("content", "says"), [(None, "was not built"), (b"no library", "libfastpath.so.1")]
)
def test_without_a_usable_library_it_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, says: str
) -> None:
    library = tmp_path / "libfastpath.so.1"
    if content is not None:
        library.write_bytes(content)
    monkeypatch.setattr(fastpath, "LIBRARY", library)

    with pytest.raises(FastPathMissing, match=says):
        fastpath.open_library()


@needs_library
def test_a_library_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastpath, "VERSION", fastpath.VERSION + 1)

    with pytest.raises(FastPathMissing, match="another version"):
        fastpath.open_library()
