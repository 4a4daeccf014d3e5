"""A bad network on loopback: a UDP proxy between clients and the server that loses, delays, repeats and reorders.

    async with proxy(("127.0.0.1", server.port)) as between:
        await call.connect(http, mangle_answer=between.rewrite)
        between.impair(to_server=Impairment(loss=0.05, delay_s=0.0))

Which voice packets of a client suffer is decided by the seed alone: each client, in the order of
their first datagrams, has fates of its own for each direction, and checks, DTLS and RTCP draw
from others than voice. Everything is bounded and counted.
"""

import asyncio
import contextlib
import heapq
import itertools
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from tests.support.impair import Fates, Impairment
from voicerelay.transceiver.voice.rtp import is_rtcp

Address = tuple[str, int]
CLEAN = Impairment(delay_s=0.0)
MAX_CLIENTS = 1024  # each has a socket towards the server
MAX_WAITING = 16_384  # datagrams under way
MAX_DATAGRAM_BYTES = 2048
BATCH = 64  # datagrams read in one turn of the loop
BUFFER_BYTES = 1 << 20


@dataclass(slots=True)
class Figures:
    """Datagrams of one direction. Received + duplicated = sent + lost + dropped + those under way."""

    received: int = 0
    voice: int = 0  # of the received
    lost: int = 0
    voice_lost: int = 0  # of the lost
    duplicated: int = 0
    spoilt: int = 0
    sent: int = 0
    largest: int = 0  # bytes, of the received
    dropped: int = 0  # by the bounds of this proxy; 0, or the measurement is worth nothing


class Way:
    """One direction of one client."""

    def __init__(self, seed: str, figures: Figures, send: Callable[[bytes], object]) -> None:
        self.seed = seed
        self.figures = figures
        self.send = send
        self.use(CLEAN)

    def use(self, how: Impairment) -> None:
        self.clean = how == CLEAN
        self.max_bytes = how.max_bytes
        self._fates = {voice: Fates(how, f"{self.seed} {voice}") for voice in (False, True)}

    def fate(self, data: bytes) -> list[tuple[float, bytes]]:
        """Each copy that arrives, with its delay."""
        voice = bool(data) and 128 <= data[0] < 192 and not is_rtcp(data)  # RFC 7983 §7
        self.figures.received += 1
        self.figures.voice += voice
        self.figures.largest = max(self.figures.largest, len(data))
        if self.clean:
            return [(0.0, data)]
        fates = self._fates[voice]
        if len(data) > self.max_bytes or fates.lost():
            self.figures.lost += 1
            self.figures.voice_lost += voice
            return []
        copies = []
        for delay_s, spoilt in fates.copies():
            self.figures.spoilt += spoilt
            copies.append((delay_s, data[:-1] + bytes([data[-1] ^ 1]) if spoilt else data))
        self.figures.duplicated += len(copies) - 1
        return copies


class Proxy:
    """Made by `proxy`. Clients send to `address`."""

    def __init__(self, server: Address, seed: int) -> None:
        self.to_server, self.to_client = Figures(), Figures()
        self._server = server
        self._seed = seed
        self._how = CLEAN, CLEAN
        self._loop = asyncio.get_running_loop()
        self._public = _socket(server[0])
        self.address: Address = self._public.getsockname()[:2]
        self._clients: dict[Address, tuple[socket.socket, Way, Way]] = {}
        self._waiting: list[tuple[float, int, Way, bytes]] = []  # a heap by the time of arrival
        self._count = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._public, self._from_clients)

    def rewrite(self, sdp: str) -> str:
        """An answer whose candidate is this proxy instead of the server."""
        there, here = (f" {host} {port} typ host" for host, port in (self._server, self.address))
        assert there in sdp, f"the answer has no candidate{there}"
        return sdp.replace(there, here)

    def impair(self, to_server: Impairment = CLEAN, to_client: Impairment = CLEAN) -> None:
        """From now on, for all clients; the fates begin anew."""
        self._how = to_server, to_client
        for _, up, down in self._clients.values():
            up.use(to_server)
            down.use(to_client)

    def rebind(self) -> None:
        """What a NAT does that forgets: the server sees every client at another port from now on."""
        for address, (old, up, down) in list(self._clients.items()):
            self._loop.remove_reader(old)
            old.close()
            sock = self._towards_server(down)
            up.send = sock.send
            self._clients[address] = sock, up, down

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._waiting.clear()
        for sock in (self._public, *(client[0] for client in self._clients.values())):
            self._loop.remove_reader(sock)
            sock.close()
        self._clients.clear()

    def _from_clients(self) -> None:
        for _ in range(BATCH):
            try:
                data, address = self._public.recvfrom(MAX_DATAGRAM_BYTES)
            except OSError:
                return
            client = self._clients.get(address) or self._new_client(address)
            if client is None:
                self.to_server.received += 1
                self.to_server.dropped += 1
            else:
                self._pass(client[1], data)

    def _new_client(self, address: Address) -> tuple[socket.socket, Way, Way] | None:
        if len(self._clients) >= MAX_CLIENTS:
            return None
        name = f"{self._seed} {len(self._clients)}"
        down = Way(f"{name} down", self.to_client, lambda data: self._public.sendto(data, address))
        sock = self._towards_server(down)
        up = Way(f"{name} up", self.to_server, sock.send)
        up.use(self._how[0])
        down.use(self._how[1])
        self._clients[address] = sock, up, down
        return self._clients[address]

    def _towards_server(self, down: Way) -> socket.socket:
        sock = _socket(self._server[0])
        sock.connect(self._server)
        self._loop.add_reader(sock, self._from_server, sock, down)
        return sock

    def _from_server(self, sock: socket.socket, down: Way) -> None:
        for _ in range(BATCH):
            try:
                data = sock.recv(MAX_DATAGRAM_BYTES)
            except OSError:
                return
            self._pass(down, data)

    def _pass(self, way: Way, data: bytes) -> None:
        for delay_s, copy in way.fate(data):
            if not delay_s:
                self._send(way, copy)
            elif len(self._waiting) >= MAX_WAITING:
                way.figures.dropped += 1
            else:
                at = self._loop.time() + delay_s
                heapq.heappush(self._waiting, (at, next(self._count), way, copy))
                self._arm()

    def _arm(self) -> None:
        if not self._waiting:
            return
        at = self._waiting[0][0]
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._deliver)

    def _deliver(self) -> None:
        self._timer = None
        now = self._loop.time() + 0.0005  # a timer of whole milliseconds may come so much too soon
        while self._waiting and self._waiting[0][0] <= now:
            _, _, way, data = heapq.heappop(self._waiting)
            self._send(way, data)
        self._arm()

    def _send(self, way: Way, data: bytes) -> None:
        try:
            way.send(data)
        except OSError:
            way.figures.dropped += 1
        else:
            way.figures.sent += 1


@contextlib.asynccontextmanager
async def proxy(server: Address, seed: int = 0) -> AsyncIterator[Proxy]:
    """A proxy before the server's UDP `(host, port)`; clean until `impair` is called."""
    between = Proxy(server, seed)
    try:
        yield between
    finally:
        between.close()


def _socket(host: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
    sock.bind((host, 0))
    return sock
