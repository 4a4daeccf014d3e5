"""The tests' bad network is itself to be trusted: seeded, bounded, and everything counted."""

import asyncio
import socket
from collections.abc import Callable

from tests.support.impair import Impairment
from tests.support.proxy import MAX_CLIENTS, Figures, Proxy, Way, proxy

VOICE = b"\x80\x6f"
CHECK = b"\x00\x01"
WAIT_S = 10.0


class Server:
    """Sends back what it gets, and keeps it."""

    def __init__(self) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.setblocking(False)
        self.got: list[bytes] = []
        asyncio.get_running_loop().add_reader(self.sock, self._read)

    def _read(self) -> None:
        data, address = self.sock.recvfrom(2048)
        self.got.append(data)
        self.sock.sendto(data, address)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.sock)
        self.sock.close()


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not happened():
            await asyncio.sleep(0.001)


async def through(how: Impairment, seed: int, count: int) -> tuple[list[int], Proxy]:
    """Voice packets of these numbers reach the server."""
    server = Server()
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        async with proxy(server.sock.getsockname(), seed) as between:
            between.impair(to_server=how)
            figures = between.to_server
            for number in range(count):
                client.sendto(VOICE + number.to_bytes(2, "big"), between.address)
                await until(lambda n=number: figures.received == n + 1)  # type: ignore[misc]
            await until(lambda: figures.sent + figures.lost == count + figures.duplicated)
            await until(lambda: len(server.got) == figures.sent)
            return [int.from_bytes(data[2:4], "big") for data in server.got], between
    finally:
        client.close()
        server.close()


def test_a_clean_proxy_passes_everything_both_ways() -> None:
    async def run() -> None:
        server = Server()
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.setblocking(False)
        async with proxy(server.sock.getsockname()) as between:
            client.sendto(CHECK, between.address)
            await until(lambda: between.to_client.sent == 1)

            assert client.recvfrom(100) == (CHECK, between.address)
        client.close()
        server.close()

    asyncio.run(run())


def test_what_is_lost_depends_on_the_seed_alone() -> None:
    how = Impairment(loss=0.2, duplicate=0.1, delay_s=0.0)

    first, between = asyncio.run(through(how, seed=7, count=100))
    again, _ = asyncio.run(through(how, seed=7, count=100))
    other, _ = asyncio.run(through(how, seed=8, count=100))

    assert first == again != other
    figures = between.to_server
    assert 5 < figures.lost < 40
    assert figures.duplicated
    assert figures.received + figures.duplicated == figures.sent + figures.lost


def test_a_held_packet_is_overtaken_and_comes() -> None:
    heard, _ = asyncio.run(through(Impairment(reorder=0.3, delay_s=0.0), seed=1, count=50))

    assert sorted(heard) == list(range(50)) != heard


def test_checks_do_not_change_what_becomes_of_the_voice() -> None:
    def fates(*datagrams: bytes) -> list[int]:
        way = Way("seed", Figures(), lambda data: None)
        way.use(Impairment(loss=0.5))
        return [len(way.fate(data)) for data in datagrams]

    voice = fates(*[VOICE] * 40)
    mixed = fates(*[VOICE, CHECK] * 40)

    assert mixed[::2] == voice
    assert 5 < sum(voice) < 35


def test_clients_are_bounded() -> None:
    async def run() -> None:
        server = Server()
        async with proxy(server.sock.getsockname()) as between:
            way = Way("seed", Figures(), server.sock.send)
            between._clients = {
                ("127.0.0.1", n): (server.sock, way, way) for n in range(MAX_CLIENTS)
            }
            assert between._new_client(("127.0.0.2", 1)) is None
            between._clients.clear()
        server.close()

    asyncio.run(run())


def test_the_answer_names_the_proxy() -> None:
    async def run() -> None:
        async with proxy(("127.0.0.1", 4000)) as between:
            port = between.address[1]
            line = "a=candidate:1 1 udp 2130706431 127.0.0.1 {} typ host\r\n"

            assert between.rewrite(line.format(4000)) == line.format(port)

    asyncio.run(run())
