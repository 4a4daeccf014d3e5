"""The relay's loops, in Python and in C, on real loopback sockets: every packet is forwarded or counted."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicerelay.relay.fastpath import LIBRARY, FastPath
from voicerelay.relay.links import Links
from voicerelay.relay.loop import MAX_DRAIN, Forwarder, Parts, split_batch
from voicerelay.relay.pace import Pace
from voicerelay.relay.route import Router
from voicerelay.shm import stun
from voicerelay.shm.counters import BLOCK_BYTES, Block, RelayCounter
from voicerelay.shm.frame import (
    ENTRY_HEADER_BYTES,
    ENTRY_LENGTHS,
    MAX_DATAGRAM_BYTES,
    MAX_FRAME_BYTES,
    entry_tail,
    split_frame,
)
from voicerelay.shm.path import PATH_BYTES, pack_path
from voicerelay.shm.receive import Source, source_path
from voicerelay.shm.rundir import frames_socket
from voicerelay.shm.table import RECORD_BYTES, Entry, TableWriter

WAIT_S = 10.0
SLOT, GENERATION, RELAY = 3, 8, 5
UFRAG = b"AAAAbbbbCCCCdddd0001"
CHECK = stun.build(stun.BINDING_REQUEST, bytes(12), [(stun.USERNAME, UFRAG + b":b")], b"password")
STRANGE = CHECK.replace(UFRAG, UFRAG[::-1])
RTP = bytes((128, 111)) + bytes(98)
BOTH = pytest.mark.parametrize(
    "compiled",
    [
        pytest.param(False, id="python"),
        pytest.param(
            True,
            id="compiled",
            marks=pytest.mark.skipif(not LIBRARY.exists(), reason="no C compiler was there"),
        ),
    ],
)
DROPS = [counter for counter in RelayCounter if counter.name.startswith("DROPPED")]


async def until(happened: Callable[[], bool]) -> None:
    """Let the loop turn until it has happened."""
    async with asyncio.timeout(WAIT_S):
        while not happened():
            await asyncio.sleep(0)


class Relay:
    """A forwarder between a public socket and one transceiver's socket, with a client."""

    def __init__(self, run_dir: Path, listening: bool = True, compiled: bool = False) -> None:
        self.block = Block(memoryview(bytearray(BLOCK_BYTES)).cast("Q"))
        tables = [
            TableWriter(memoryview(bytearray(64 * RECORD_BYTES)), memoryview(bytearray(4)), 32)
            for _ in range(2)
        ]
        self.links = Links(run_dir)
        self.public = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.public.bind(("127.0.0.1", 0))
        self.client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.client.connect(self.public.getsockname())
        self.path = pack_path(0, *self.client.getsockname())
        tables[0].put(UFRAG, Entry(SLOT, GENERATION, 1, 0))
        tables[1].put(self.path, Entry(SLOT, GENERATION, 1, 0))
        self.tables = tables
        self.forwarder: FastPath | Forwarder
        if compiled:
            self.forwarder = FastPath(run_dir, self.block, 0.0, *tables)
        else:
            self.forwarder = self.in_python(Pace(0.0))
        self._first = self.forwarder
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if listening:
            self.listener.bind(str(frames_socket(run_dir, SLOT, GENERATION)))
            self.listener.listen(1)
        self.listener.setblocking(False)
        self.accepted: list[socket.socket] = []

    def __enter__(self) -> "Relay":
        self.hold()
        return self

    def __exit__(
        self, _a: type[BaseException] | None, _b: BaseException | None, _c: TracebackType | None
    ) -> None:
        self.forwarder.close()
        self.links.close()
        for sock in (self.public, self.client, self.listener, *self.accepted):
            sock.close()

    def in_python(self, pace: Pace, sleep: Callable[[float], None] = time.sleep) -> Forwarder:
        """A forwarder with this router, whatever the relay."""
        return Forwarder(
            asyncio.get_running_loop(), self.links, self.block, pace, self.make_router, sleep
        )

    def make_router(self, relay: int, local: int) -> Router[Source]:
        return Router(relay, self.tables[0], self.tables[1], partial(source_path, local))

    def hold(self) -> None:
        self.forwarder.hold(RELAY, [self.public.dup()])

    def hold_alone(self) -> None:
        """With a new forwarder, so that the first one reads no more."""
        self._first.release(RELAY)
        self.hold()

    def get(self, counter: RelayCounter) -> int:
        return self.block.get(counter)

    async def received(self, count: int) -> None:
        await until(lambda: self.get(RelayCounter.PACKETS_RECEIVED) >= count)

    def frames(self) -> list[bytes]:
        """What the transceiver has got."""
        with contextlib.suppress(OSError):
            link, _ = self.listener.accept()
            link.setblocking(False)
            self.accepted.append(link)
        found = []
        for link in self.accepted:
            with contextlib.suppress(BlockingIOError):
                while frame := link.recv(MAX_FRAME_BYTES + 1):
                    found.append(frame)
        return found

    def balance(self) -> tuple[int, int]:
        """Received, and forwarded + all that was dropped."""
        gone = sum(map(self.get, DROPS))
        return self.get(RelayCounter.PACKETS_RECEIVED), (
            self.get(RelayCounter.PACKETS_FORWARDED) + gone
        )


@BOTH
def test_waiting_packets_become_one_frame_in_order(tmp_path: Path, compiled: bool) -> None:
    async def run() -> None:
        with Relay(tmp_path, compiled=compiled) as relay:
            # given a check and media that wait together
            relay.forwarder.release(RELAY)
            packets = [CHECK, *(RTP + bytes((n,)) for n in range(9))]
            for packet in packets:
                relay.client.send(packet)

            # when the relay wakes up
            relay.hold()
            await relay.received(10)

            # then the transceiver has them all in one message, each with its path
            (frame,) = relay.frames()
            assert list(split_frame(frame)) == [(RELAY, relay.path, packet) for packet in packets]
            assert relay.get(RelayCounter.FRAMES_SENT) == relay.get(RelayCounter.WAKEUPS) == 1
            assert relay.get(RelayCounter.BYTES_RECEIVED) == sum(map(len, packets))

    asyncio.run(run())


def test_a_wakeup_drains_at_most_64_packets(tmp_path: Path) -> None:
    async def run() -> None:
        with Relay(tmp_path) as relay:
            for _ in range(MAX_DRAIN + 6):
                relay.client.send(RTP)

            await until(lambda: relay.get(RelayCounter.WAKEUPS) == 1)

            assert relay.get(RelayCounter.PACKETS_RECEIVED) == MAX_DRAIN
            await relay.received(MAX_DRAIN + 6)

    asyncio.run(run())


@BOTH
def test_a_look_that_is_too_long_for_a_frame_becomes_several(
    tmp_path: Path, compiled: bool
) -> None:
    async def run() -> None:
        with Relay(tmp_path, compiled=compiled) as relay:
            relay.forwarder.release(RELAY)
            packets = [RTP.ljust(MAX_DATAGRAM_BYTES - n, b".") for n in range(32)]
            for packet in packets:
                relay.client.send(packet)

            relay.hold()
            await relay.received(len(packets))

            frames = relay.frames()
            assert [entry[2] for frame in frames for entry in split_frame(frame)] == packets
            assert len(frames) > 1
            assert all(len(frame) <= MAX_FRAME_BYTES for frame in frames)

    asyncio.run(run())


MIX = st.sampled_from(
    [b"", CHECK, STRANGE, CHECK[:-1], RTP, RTP * 10, b"\x16" * 40, b"\x50junk", b"\xff", b"\x01"]
)


@BOTH
@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.one_of(MIX, st.binary(max_size=MAX_DATAGRAM_BYTES + 9)), min_size=1, max_size=90),
    st.booleans(),
    st.booleans(),
)
def test_received_is_forwarded_plus_all_drops(
    compiled: bool, packets: list[bytes], listening: bool, giant: bool
) -> None:
    async def run(run_dir: Path) -> None:
        with Relay(run_dir, listening, compiled) as relay:
            # given a random mix from a client with a flow and from a stranger
            if giant:
                packets.insert(0, RTP.ljust(65_507, b"."))  # the largest UDP payload
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                stranger.connect(relay.public.getsockname())
                for number, packet in enumerate(packets):
                    (stranger if number % 5 == 4 else relay.client).send(packet)
                    await relay.received(number - 10)

                # when the relay has seen it all
                await relay.received(len(packets))

            # then nothing is missing, and the transceiver has what was forwarded
            assert relay.balance() == (len(packets), len(packets))
            arrived = [entry for frame in relay.frames() for entry in split_frame(frame)]
            assert len(arrived) == relay.get(RelayCounter.PACKETS_FORWARDED)
            assert relay.get(RelayCounter.DROPPED_OVERSIZED) >= giant
            assert listening or not arrived

    with TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))


@BOTH
def test_packets_for_a_full_transceiver_are_counted_and_the_loop_goes_on(
    tmp_path: Path, compiled: bool
) -> None:
    async def run() -> None:
        with Relay(tmp_path, compiled=compiled) as relay:
            # given a transceiver that never reads
            sent = 0
            while not relay.get(RelayCounter.DROPPED_QUEUE_FULL):
                for _ in range(MAX_DRAIN):
                    relay.client.send(RTP.ljust(1200, b"."))
                sent += MAX_DRAIN
                await relay.received(sent)
                assert sent < 100_000

            # when a packet comes that is no concern of it
            relay.client.send(b"\xff")
            await relay.received(sent + 1)

            # then it is judged as ever, and the sums hold
            assert relay.get(RelayCounter.DROPPED_NOT_WEBRTC) == 1
            assert relay.balance() == (sent + 1, sent + 1)

    asyncio.run(run())


@BOTH
def test_a_released_socket_keeps_its_queue_for_the_next_holder(
    tmp_path: Path, compiled: bool
) -> None:
    async def run() -> None:
        with Relay(tmp_path, compiled=compiled) as relay:
            # given a relay that lets go of its socket
            assert (relay.forwarder.holding, relay.get(RelayCounter.SOCKETS_READ)) == ([RELAY], 1)
            relay.forwarder.release(RELAY)
            assert (relay.forwarder.holding, relay.get(RelayCounter.SOCKETS_READ)) == ([], 0)

            # when packets come meanwhile, and somebody adopts it
            for _ in range(5):
                relay.client.send(RTP)
            for _ in range(10):
                await asyncio.sleep(0)
            assert relay.get(RelayCounter.PACKETS_RECEIVED) == 0
            relay.hold()

            # then they are all there
            await relay.received(5)
            assert relay.get(RelayCounter.PACKETS_FORWARDED) == 5

    asyncio.run(run())


@BOTH
def test_holding_a_relay_again_replaces_its_sockets(tmp_path: Path, compiled: bool) -> None:
    async def run() -> None:
        with Relay(tmp_path, compiled=compiled) as relay:
            first = relay.public.dup()
            relay.forwarder.hold(RELAY, [first])

            relay.hold()

            assert first.fileno() == -1
            assert relay.get(RelayCounter.SOCKETS_READ) == 1
            relay.client.send(RTP)
            await relay.received(1)

    asyncio.run(run())


@BOTH
def test_releasing_what_is_not_held_is_no_error(tmp_path: Path, compiled: bool) -> None:
    async def run() -> None:
        with Relay(tmp_path, compiled=compiled) as relay:
            relay.forwarder.release(RELAY + 1)

            assert relay.forwarder.holding == [RELAY]

    asyncio.run(run())


@settings(deadline=None)
@given(st.lists(st.integers(1, MAX_DATAGRAM_BYTES), min_size=1, max_size=MAX_DRAIN))
def test_a_batch_is_cut_between_packets_into_frames_of_allowed_size(sizes: list[int]) -> None:
    batch: Parts = []
    for size in sizes:
        batch += (ENTRY_LENGTHS[size], entry_tail(0, bytes(PATH_BYTES)), bytes(size))

    frames = split_batch(batch)

    assert [part for frame in frames for part in frame] == batch
    assert all(0 < sum(map(len, frame)) <= MAX_FRAME_BYTES for frame in frames)
    assert all(len(frame[0]) + len(frame[1]) == ENTRY_HEADER_BYTES for frame in frames)


@pytest.mark.parametrize(("over", "frames"), [(0, 1), (1, 2)])
def test_a_batch_of_exactly_the_limit_is_one_frame(over: int, frames: int) -> None:
    size = MAX_DATAGRAM_BYTES + ENTRY_HEADER_BYTES
    count, rest = divmod(MAX_FRAME_BYTES, size)
    header = [bytes(2), bytes(ENTRY_HEADER_BYTES - 2)]
    batch: Parts = [*header, bytes(MAX_DATAGRAM_BYTES)] * count
    batch += [*header, bytes(rest - ENTRY_HEADER_BYTES + over)]

    assert len(split_batch(batch)) == frames
