"""What strangers send, and what of it can be seen in a running server: tables, memory, counts, replies."""

import asyncio
import os
import socket

import aiohttp
import psutil

from tests.support.client import Call
from tests.support.lean import Caller, LeanCall
from tests.support.server import Server
from voicerelay.cli.status import read_status
from voicerelay.shm import rundir, stun
from voicerelay.shm.region import HEADER_BYTES, Region
from voicerelay.shm.table import RECORD_BYTES

PLAINTEXT_ALERT = bytes.fromhex("15fefd00000000000000000002") + b"\x02\x28"


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


class Recorded(LeanCall):
    """A call whose packets somebody writes down."""

    def __init__(self, caller: Caller) -> None:
        super().__init__(caller)
        self.packets: list[bytes] = []

    def _send(self, data: bytes) -> None:
        self.packets.append(data)
        super()._send(data)

    def again(self, packets: list[bytes]) -> None:
        """From its own address."""
        for packet in packets:
            super()._send(packet)


async def packets_in(running: Server, http: aiohttp.ClientSession, call: LeanCall) -> int:
    where = call.resource.replace("/whip/", "/sessions/")
    async with http.get(f"{running.http_url}{where}") as response:
        return int((await response.json())["packets_in"])


def dropped(running: Server, reason: str) -> int:
    return int(read_status(running.run_dir)["dropped"][reason])


async def until_dropped(running: Server, reason: str, count: int) -> None:
    async with asyncio.timeout(20):
        while dropped(running, reason) < count:
            await asyncio.sleep(0.01)
