"""The relay's loop: drain a public socket, group by transceiver, one aggregated frame each."""

import socket
import time
from asyncio import AbstractEventLoop

from voicerelay.relay.links import Links
from voicerelay.relay.route import Router
from voicerelay.shm.counters import Block, RelayCounter
from voicerelay.shm.frame import MAX_DATAGRAM_BYTES, MAX_FRAME_BYTES, entry_header

MAX_DRAIN = 64  # packets a wake-up, so that one busy socket cannot starve the loop
_RECEIVE_BYTES = MAX_DATAGRAM_BYTES + 1  # one more, to see that a datagram was longer


class Forwarder:
    """Reads the public sockets that this relay holds and feeds the transceivers."""

    def __init__(self, loop: AbstractEventLoop, links: Links, block: Block) -> None:
        self._loop = loop
        self._links = links
        self._block = block
        self._held: dict[int, list[socket.socket]] = {}

    @property
    def holding(self) -> list[int]:
        """Indices of the relay sockets being read."""
        return sorted(self._held)

    def hold(self, relay: int, sockets: list[socket.socket], routers: list[Router]) -> None:
        """Start to read a relay socket (one socket and router for each listen address)."""
        self.release(relay)
        self._held[relay] = sockets
        for sock, router in zip(sockets, routers, strict=True):
            sock.setblocking(False)
            self._loop.add_reader(sock.fileno(), self._drain, relay, sock, router)
        self._block.set(RelayCounter.SOCKETS_READ, len(self._held))

    def release(self, relay: int) -> None:
        """Stop to read a relay socket; its queue stays for whoever holds it next."""
        for sock in self._held.pop(relay, []):
            self._loop.remove_reader(sock.fileno())
            sock.close()
        self._block.set(RelayCounter.SOCKETS_READ, len(self._held))

    def _drain(self, relay: int, sock: socket.socket, router: Router) -> None:
        receive, decide = sock.recvfrom, router.decide
        batches: dict[tuple[int, int], list[bytes]] = {}
        drops: list[RelayCounter] = []
        received = received_bytes = 0
        for _ in range(MAX_DRAIN):
            try:
                datagram, address = receive(_RECEIVE_BYTES)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                break  # an ICMP error of an earlier send; the socket itself is fine
            received += 1
            received_bytes += len(datagram)
            destination = decide(datagram, address)
            if isinstance(destination, RelayCounter):
                drops.append(destination)
                continue
            slot, generation, path = destination
            batch = batches.setdefault((slot, generation), [])
            batch.append(entry_header(len(datagram), relay, path))
            batch.append(datagram)
        block = self._block
        block.add(RelayCounter.WAKEUPS)
        block.add(RelayCounter.PACKETS_RECEIVED, received)
        block.add(RelayCounter.BYTES_RECEIVED, received_bytes)
        for reason in drops:
            block.add(reason)
        for target, batch in batches.items():
            self._deliver(target, batch)

    def _deliver(self, target: tuple[int, int], batch: list[bytes]) -> None:
        for parts in split_batch(batch):
            packets = len(parts) // 2
            reason = self._links.send(target, b"".join(parts), time.monotonic())
            if reason is None:
                self._block.add(RelayCounter.FRAMES_SENT)
                self._block.add(RelayCounter.PACKETS_FORWARDED, packets)
            else:
                self._block.add(reason, packets)


def split_batch(batch: list[bytes]) -> list[list[bytes]]:
    """Cut [header, datagram, …] into frames of at most MAX_FRAME_BYTES."""
    if sum(map(len, batch)) <= MAX_FRAME_BYTES:
        return [batch]
    frames: list[list[bytes]] = [[]]
    size = 0
    for header, datagram in zip(batch[::2], batch[1::2], strict=True):
        length = len(header) + len(datagram)
        if size + length > MAX_FRAME_BYTES:
            frames.append([])
            size = 0
        frames[-1] += (header, datagram)
        size += length
    return frames
