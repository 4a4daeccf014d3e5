"""The relay's loop: drain the public sockets, group by transceiver, one aggregated frame each."""

import socket
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable
from itertools import chain

from voicerelay.relay.links import Links
from voicerelay.relay.pace import Pace
from voicerelay.relay.route import Router
from voicerelay.shm.counters import Block, RelayCounter
from voicerelay.shm.frame import ENTRY_LENGTHS, MAX_DATAGRAM_BYTES, MAX_FRAME_BYTES

MAX_DRAIN = 64  # packets a socket and look, so that one busy socket cannot starve the others
MAX_LOOKS = 40  # a wake-up; then the heartbeat and control have their turn
PARTS = 3  # of an entry in a batch: length, tail, datagram
_RECEIVE_BYTES = MAX_DATAGRAM_BYTES + 1  # one more, to see that a datagram was longer

Batches = dict[tuple[int, int], list[bytes]]


class Forwarder:
    """Reads the public sockets that this relay holds and feeds the transceivers.

    `sleep` waits a fraction of a millisecond; the relay has nothing else to do meanwhile.
    """

    def __init__(
        self,
        loop: AbstractEventLoop,
        links: Links,
        block: Block,
        pace: Pace,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._loop = loop
        self._links = links
        self._block = block
        self._pace = pace
        self._sleep = sleep
        self._held: dict[int, list[tuple[socket.socket, Router]]] = {}

    @property
    def holding(self) -> list[int]:
        """Indices of the relay sockets being read."""
        return sorted(self._held)

    def hold(self, relay: int, sockets: list[socket.socket], routers: list[Router]) -> None:
        """Start to read a relay socket (one socket and router for each listen address)."""
        self.release(relay)
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

    def _wake(self) -> None:
        """Packets are there: forward them, and while more come quickly, wait and look again."""
        for _ in range(MAX_LOOKS):
            drained = self._look()
            if not self._pace.worth_waiting(drained, time.monotonic()):
                return
            if drained < MAX_DRAIN:
                self._sleep(self._pace.coalesce_s)

    def _look(self) -> int:
        """Drain every held socket once and deliver; returns how many packets there were."""
        batches: Batches = {}
        received = 0
        for sock, router in chain.from_iterable(self._held.values()):
            received += self._drain(sock, router, batches)
        self._block.add(RelayCounter.WAKEUPS)
        self._block.add(RelayCounter.PACKETS_RECEIVED, received)
        for target, batch in batches.items():
            self._deliver(target, batch)
        return received

    def _drain(self, sock: socket.socket, router: Router, batches: Batches) -> int:
        receive, decide, get, lengths = sock.recvfrom, router.decide, batches.get, ENTRY_LENGTHS
        received = received_bytes = 0
        for _ in range(MAX_DRAIN):
            try:
                datagram, address = receive(_RECEIVE_BYTES)
            except OSError:
                break  # nothing left; or an ICMP error of an earlier send, the socket is fine
            received += 1
            size = len(datagram)
            received_bytes += size
            destination = decide(datagram, address)
            if isinstance(destination, RelayCounter):
                self._block.add(destination)
                continue
            target, tail = destination
            batch = get(target)
            if batch is None:
                batches[target] = [lengths[size], tail, datagram]
            else:
                batch += (lengths[size], tail, datagram)
        self._block.add(RelayCounter.BYTES_RECEIVED, received_bytes)
        return received

    def _deliver(self, target: tuple[int, int], batch: list[bytes]) -> None:
        frame = b"".join(batch)
        if len(frame) > MAX_FRAME_BYTES:
            for part in split_batch(batch):
                self._send(target, b"".join(part), len(part) // PARTS)
        else:
            self._send(target, frame, len(batch) // PARTS)

    def _send(self, target: tuple[int, int], frame: bytes, packets: int) -> None:
        reason = self._links.send(target, frame)
        if reason is None:
            self._block.add(RelayCounter.FRAMES_SENT)
            self._block.add(RelayCounter.PACKETS_FORWARDED, packets)
        else:
            self._block.add(reason, packets)


def split_batch(batch: list[bytes]) -> list[list[bytes]]:
    """Cut [length, tail, datagram, …] into frames of at most MAX_FRAME_BYTES."""
    frames: list[list[bytes]] = [[]]
    size = 0
    for start in range(0, len(batch), PARTS):
        entry = batch[start : start + PARTS]
        length = sum(map(len, entry))
        if size + length > MAX_FRAME_BYTES:
            frames.append([])
            size = 0
        frames[-1] += entry
        size += length
    return frames
