"""The relay's loop: drain the public sockets, group by transceiver, one aggregated frame each."""

import socket
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable
from itertools import chain

from voicerelay.relay.links import Links
from voicerelay.relay.pace import Pace
from voicerelay.relay.route import BY_FLOW, Router
from voicerelay.shm.counters import Block, RelayCounter
from voicerelay.shm.frame import ENTRY_LENGTHS, MAX_DATAGRAM_BYTES, MAX_FRAME_BYTES
from voicerelay.shm.overflow import overflows
from voicerelay.shm.receive import MAX_BATCH, Batch, Source

MAX_DRAIN = MAX_BATCH  # packets a socket and look, so that one busy socket cannot starve the others
MAX_LOOKS = 40  # a wake-up; then the heartbeat and control have their turn
PARTS = 3  # of an entry in a batch: length, tail, datagram

Parts = list[bytes | memoryview]


class Forwarder:
    """Reads the public sockets that this relay holds and feeds the transceivers.

    `make_router(relay, local)` is for a socket of a relay at a listen address.
    `sleep` waits a fraction of a millisecond; the relay has nothing else to do meanwhile.
    """

    alive_s = 0.05  # how often `alive` is to be called

    def __init__(
        self,
        loop: AbstractEventLoop,
        links: Links,
        block: Block,
        pace: Pace,
        make_router: Callable[[int, int], Router[Source]],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._make_router = make_router
        self._loop = loop
        self._links = links
        self._block = block
        self._pace = pace
        self._sleep = sleep
        self._held: dict[int, list[tuple[socket.socket, Router[Source]]]] = {}
        self._batches = {family: Batch(family) for family in (socket.AF_INET, socket.AF_INET6)}
        self._received = self._received_bytes = self._forwarded = self._frames = 0

    @property
    def holding(self) -> list[int]:
        """Indices of the relay sockets being read."""
        return sorted(self._held)

    def hold(self, relay: int, sockets: list[socket.socket]) -> None:
        """Start to read a relay socket (one for each listen address)."""
        self.release(relay)
        routers = (self._make_router(relay, local) for local in range(len(sockets)))
        self._held[relay] = list(zip(sockets, routers, strict=True))
        for sock in sockets:
            sock.setblocking(False)
            self._loop.add_reader(sock.fileno(), self._wake)
        self._block.set(RelayCounter.SOCKETS_READ, len(self._held))

    def release(self, relay: int) -> None:
        """Stop to read a relay socket; its queue stays for whoever holds it next."""
        for sock, _ in self._held.pop(relay, []):
            self._loop.remove_reader(sock.fileno())
            sock.close()
        self._block.set(RelayCounter.SOCKETS_READ, len(self._held))

    def alive(self) -> None:
        """The event loop turns: this is the loop that does the work (law 6)."""
        self._block.beat()
        sockets = (sock for sock, _ in chain.from_iterable(self._held.values()))
        self._block.set(RelayCounter.SOCKET_OVERFLOWS, sum(map(overflows, sockets)))

    def close(self) -> None:
        """Let go of every socket and link."""
        for relay in self.holding:
            self.release(relay)
        self._links.close()

    def _wake(self) -> None:
        """Packets are there: forward them, and while more come quickly, wait and look again."""
        for _ in range(MAX_LOOKS):
            drained = 0
            for sock, router in chain.from_iterable(self._held.values()):
                drained += self._drain(sock, router)
            if not self._pace.worth_waiting(drained, time.monotonic()):
                break
            if drained < MAX_DRAIN:
                self._sleep(self._pace.coalesce_s)
        self._count()

    def _drain(self, sock: socket.socket, router: Router[Source]) -> int:
        """Take what waits at a socket and deliver it; returns how many packets there were."""
        batch = self._batches[sock.family]
        received = batch.receive(sock.fileno())
        if not received:
            return 0
        store, sizes, lengths, by_flow = batch.store, batch.sizes, ENTRY_LENGTHS, BY_FLOW
        sequences, known_of = router.sequences, router.cache.get
        frames: dict[tuple[int, int], Parts] = {}
        frame_of = frames.get
        for (start, at), source in zip(batch.places, batch.sources(received), strict=False):
            size = sizes[at]
            self._received_bytes += size
            datagram = store[start : start + size]
            known = known_of(source)
            # What `decide` would answer from its cache, without the call.
            if (
                known is not None
                and 0 < size <= MAX_DATAGRAM_BYTES
                and by_flow[datagram[0]]
                and sequences[known[0]] == known[1]
            ):
                target, tail = known[2]
            else:
                decision = router.decide(bytes(datagram), source)
                if isinstance(decision, RelayCounter):
                    self._block.add(decision)
                    continue
                target, tail = decision
            parts = frame_of(target)
            if parts is None:
                frames[target] = [lengths[size], tail, datagram]
            else:
                parts += (lengths[size], tail, datagram)
        # Before the buffers are used again.
        for target, parts in frames.items():
            self._deliver(target, parts)
        self._received += received
        return received

    def _deliver(self, target: tuple[int, int], parts: Parts) -> None:
        frame = b"".join(parts)
        if len(frame) > MAX_FRAME_BYTES:
            for some in split_batch(parts):
                self._send(target, b"".join(some), len(some) // PARTS)
        else:
            self._send(target, frame, len(parts) // PARTS)

    def _send(self, target: tuple[int, int], frame: bytes, packets: int) -> None:
        reason = self._links.send(target, frame)
        if reason is None:
            self._frames += 1
            self._forwarded += packets
        else:
            self._block.add(reason, packets)

    def _count(self) -> None:
        """Figures go to shared memory once a wake-up."""
        self._block.add(RelayCounter.WAKEUPS)
        self._block.add(RelayCounter.PACKETS_RECEIVED, self._received)
        self._block.add(RelayCounter.BYTES_RECEIVED, self._received_bytes)
        self._block.add(RelayCounter.PACKETS_FORWARDED, self._forwarded)
        self._block.add(RelayCounter.FRAMES_SENT, self._frames)
        self._received = self._received_bytes = self._forwarded = self._frames = 0


def split_batch(parts: Parts) -> list[Parts]:
    """Cut [length, tail, datagram, …] into frames of at most MAX_FRAME_BYTES."""
    frames: list[Parts] = [[]]
    size = 0
    for start in range(0, len(parts), PARTS):
        entry = parts[start : start + PARTS]
        length = sum(map(len, entry))
        if size + length > MAX_FRAME_BYTES:
            frames.append([])
            size = 0
        frames[-1] += entry
        size += length
    return frames
