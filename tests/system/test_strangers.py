"""Packets of strangers: no reply, no flow, no ended call, no memory."""

import asyncio
import os
import random
import socket
import struct
from collections.abc import Iterator

import psutil
import pytest

from tests.support.callers import callers, still_there
from tests.support.client import Call
from tests.support.server import Server, server
from voicerelay.cli.status import read_status
from voicerelay.shm import rundir, stun
from voicerelay.shm.region import HEADER_BYTES, Region
from voicerelay.shm.table import RECORD_BYTES

pytestmark = pytest.mark.system

MEMORY_SLACK_BYTES = 4 << 20
RANDOM_UFRAGS = 100_000
PLAINTEXT_ALERT = bytes.fromhex("15fefd00000000000000000002") + b"\x02\x28"


@pytest.fixture(scope="module")
def running(plane_options: list[str]) -> Iterator[Server]:
    with server(relays=2, transceivers=1, extra=plane_options) as started:
        yield started


def table_bytes(running: Server) -> bytes:
    """Routes and flows as they lie in shared memory."""
    region = Region.attach(rundir.region_name(running.run_dir))
    try:
        sizes = region.sizes
        end = HEADER_BYTES + (sizes.routes + sizes.flows) * RECORD_BYTES
        return bytes(region._buffer[HEADER_BYTES:end])
    finally:
        region.close()


def memory(running: Server) -> dict[int, int]:
    """Unshared resident bytes of each relay and transceiver."""
    status = read_status(running.run_dir)
    pids = [process["pid"] for process in status["relays"] + status["transceivers"]]
    return {pid: psutil.Process(pid).memory_info().rss for pid in pids}


def stranger() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    return sock


def silent(sock: socket.socket) -> bool:
    """Whether nothing at all came back."""
    try:
        sock.recvfrom(65536)
    except BlockingIOError:
        return True
    return False


async def counted(running: Server, before: int, sent: int) -> None:
    """Wait until the relays have judged everything that was sent."""
    deadline = asyncio.get_running_loop().time() + 20
    while asyncio.get_running_loop().time() < deadline:
        if received(running) >= before + sent:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{received(running) - before} of {sent} packets were counted")


def received(running: Server) -> int:
    """Packets that a relay has seen, or that the kernel has steered past them."""
    status = read_status(running.run_dir)
    steered = status["control"]["steered_by_flow"] + status["control"]["steered_by_ufrag"]
    return int(steered + sum(relay["packets_received"] for relay in status["relays"]))


def unknown_ufrags(running: Server) -> int:
    return int(read_status(running.run_dir)["dropped"]["unknown_ufrag"])


def answer_values(call: Call) -> tuple[bytes, bytes]:
    """ufrag and password that the server gave to a call."""
    lines = call.answer.splitlines()
    ufrag = next(line.partition(":")[2] for line in lines if line.startswith("a=ice-ufrag:"))
    password = next(line.partition(":")[2] for line in lines if line.startswith("a=ice-pwd:"))
    return ufrag.encode(), password.encode()


def bad_checks(ufrag: bytes) -> list[bytes]:
    """Binding requests for a known ufrag that prove nothing."""
    username = (stun.USERNAME, ufrag + b":abcd")
    extra = [(stun.PRIORITY, b"\x6e\x00\x01\xff"), (stun.USE_CANDIDATE, b"")]
    attributes = [username, *extra]
    signed = stun.build(stun.BINDING_REQUEST, os.urandom(12), attributes, b"wrong-password")
    return [
        stun.build(stun.BINDING_REQUEST, os.urandom(12), attributes),
        stun.build(stun.BINDING_REQUEST, os.urandom(12), [username], with_fingerprint=False),
        signed,
        signed[:-1] + bytes([signed[-1] ^ 1]),
        stun.build(
            stun.BINDING_REQUEST, os.urandom(12), [*attributes, (stun.MESSAGE_INTEGRITY, bytes(20))]
        ),
        stun.build(
            stun.BINDING_REQUEST, os.urandom(12), [(stun.USERNAME, ufrag)], b"wrong-password"
        ),
        stun.build(stun.BINDING_SUCCESS, os.urandom(12), attributes, b"wrong-password"),
    ]


JUNK = [
    b"",
    b"\x00",
    b"\x01\x02",
    b"\x80\x80\x80",
    bytes(20),
    b"\x16\xfe\xfd" + bytes(60),
    PLAINTEXT_ALERT,
    b"\x80" + bytes(171),
    b"\xff" * 100,
    os.urandom(1200),
    bytes(65_000),
]


def test_junk_gets_no_reply_and_ends_no_call(running: Server) -> None:
    async def scenario() -> None:
        async with callers(running.http_url, 3) as (calls, _):
            ufrag, _ = answer_values(calls[0])
            flood = JUNK + bad_checks(ufrag)
            tables, before = table_bytes(running), received(running)
            with stranger() as sock:
                talk = asyncio.gather(*(call.talk(1.0) for call in calls))
                for _ in range(50):
                    for packet in flood:
                        sock.sendto(packet, ("127.0.0.1", running.port))
                    await asyncio.sleep(0.01)
                await talk
                await counted(running, before, 50 * len(flood))

                assert silent(sock)
            assert table_bytes(running) == tables
            assert all(await asyncio.gather(*(still_there(call) for call in calls)))

    asyncio.run(scenario())


def test_alerts_and_junk_during_the_handshake_do_not_stop_it(running: Server) -> None:
    async def scenario() -> None:
        with stranger() as sock:

            async def disturb() -> None:
                while True:
                    for packet in (PLAINTEXT_ALERT, b"", b"\x16\xfe\xfd" + bytes(60)):
                        sock.sendto(packet, ("127.0.0.1", running.port))
                    await asyncio.sleep(0)

            disturbing = asyncio.ensure_future(disturb())
            try:
                async with callers(running.http_url, 5) as (calls, _):
                    assert all(call.connected for call in calls)
                    assert await still_there(calls[0])
            finally:
                disturbing.cancel()
            assert silent(sock)

    asyncio.run(scenario())


def test_random_ufrags_cost_nothing_but_a_count(running: Server) -> None:
    rng = random.Random(20261123)  # the seed, so that a failure can be repeated

    async def scenario() -> None:
        async with callers(running.http_url, 2) as (calls, _):
            tables, rss, before = table_bytes(running), memory(running), unknown_ufrags(running)
            talk = asyncio.gather(*(call.talk(6.0) for call in calls))
            with stranger() as sock:
                for number in range(RANDOM_UFRAGS):
                    name = rng.randbytes(15).hex()[:20].encode() + b":abcd"
                    packet = stun.build(
                        stun.BINDING_REQUEST, rng.randbytes(12), [(stun.USERNAME, name)], b"guess"
                    )
                    sock.sendto(packet, ("127.0.0.1", running.port))
                    if number % 500 == 0:  # no faster than the relays judge: every one counts
                        async with asyncio.timeout(20):
                            while unknown_ufrags(running) < before + number - 1000:
                                await asyncio.sleep(0.001)
                await talk

                assert silent(sock)
            async with asyncio.timeout(20):
                while unknown_ufrags(running) < before + RANDOM_UFRAGS:
                    await asyncio.sleep(0.01)
            assert table_bytes(running) == tables
            grown = {pid: now - rss[pid] for pid, now in memory(running).items()}
            assert max(grown.values()) < MEMORY_SLACK_BYTES
            assert all(await asyncio.gather(*(still_there(call) for call in calls)))

    asyncio.run(scenario())


@pytest.mark.skipif(os.geteuid() != 0, reason="forging a source address needs root")
def test_packets_forged_from_the_callers_own_address_do_not_end_the_call(running: Server) -> None:
    def forged(source: tuple[str, int], payload: bytes) -> bytes:
        udp = struct.pack("!HHHH", source[1], running.port, 8 + len(payload), 0) + payload
        addresses = socket.inet_aton(source[0]) + socket.inet_aton("127.0.0.1")
        return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + addresses + udp

    async def scenario() -> None:
        async with callers(running.http_url, 1) as (calls, _):
            call = calls[0]
            transport = call.pc.getTransceivers()[0].receiver.transport.transport
            pair = transport._connection._nominated[1]
            before = received(running)
            raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
            with raw:
                talk = asyncio.ensure_future(call.talk(2.0))
                for number in range(10_000):
                    payload = JUNK[1 + number % (len(JUNK) - 2)]
                    raw.sendto(forged(pair.local_addr, payload), ("127.0.0.1", running.port))
                    if number % 50 == 0:
                        await asyncio.sleep(0.005)
                await talk
            await counted(running, before, 10_000)

            status = read_status(running.run_dir)
            assert status["flows"] == 1
            assert status["dropped"]["plaintext_alert"] > 0
            assert status["dropped"]["srtp"] > 0
            assert await still_there(call)

    asyncio.run(scenario())
