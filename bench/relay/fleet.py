"""Stands in for the transceivers: registers routes, commits flows, hands its frame sockets over.

A process of its own (`python -P fleet.py JSON`): control watches its heart like any transceiver's.
"""

import asyncio
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from voicerelay.shm import protocol
from voicerelay.shm.client import ControlClient
from voicerelay.shm.path import pack_path
from voicerelay.shm.protocol import Message
from voicerelay.shm.region import ABI, Region
from voicerelay.shm.rundir import frames_socket
from voicerelay.shm.ufrag import make_ufrag

HEARTBEAT_S = 0.5
WAIT_S = 20.0


class Transceiver:
    """One slot: says hello, listens for frames, owns its share of the flows."""

    def __init__(self, run_dir: Path, slot: int, clients: list[tuple[int, str, int]]) -> None:
        self._run_dir = run_dir
        self._slot = slot
        self._clients = clients  # flow, host, port
        self._waiting: set[int] = set()
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ufrags: dict[int, bytes] = {}
        self._client = ControlClient(
            run_dir, self._hello, self._welcome, self._message, lambda: os._exit(1)
        )
        self._client.connect()

    def _hello(self) -> protocol.Hello:
        return protocol.Hello(protocol.PROTOCOL, ABI, protocol.TRANSCEIVER, self._slot, 0, [])

    def _welcome(self, welcome: protocol.Welcome, fds: list[int]) -> None:
        for fd in fds:
            os.close(fd)  # the public socket, to answer through; nobody answers here
        region = Region.attach(welcome.region, welcome.instance)
        self._block = region.counters.transceiver(self._slot)
        self._block.claim(welcome.generation)
        self._beat()
        self.listener.bind(str(frames_socket(self._run_dir, self._slot, welcome.generation)))
        self.listener.listen(8)
        for flow, host, port in self._clients:
            self.ufrags[flow] = make_ufrag(welcome.cluster_key, 0, self._slot)
            self._ask(protocol.RegisterRoute(2 * flow, self.ufrags[flow], flow))
            self._ask(protocol.CommitFlow(2 * flow + 1, pack_path(0, host, port), flow))

    def _ask(self, request: protocol.RegisterRoute | protocol.CommitFlow) -> None:
        self._waiting.add(request.request)
        self._client.send(request)

    def _message(self, message: Message, fds: list[int]) -> None:
        for fd in fds:
            os.close(fd)
        if not isinstance(message, protocol.Done):
            return
        if message.error:
            self.ready.set_exception(RuntimeError(message.error))
        self._waiting.discard(message.request)
        if not self._waiting and not self.ready.done():
            self.ready.set_result(None)

    def _beat(self) -> None:
        self._block.beat()
        self._loop.call_later(HEARTBEAT_S, self._beat)


async def run(settings: dict[str, Any]) -> None:
    """Bring every slot up, hand the listeners over, then beat until the other end closes."""
    to_bench = socket.socket(fileno=settings["fd"])
    clients = [(int(f), str(host), int(port)) for f, host, port in settings["clients"]]
    slots = int(settings["slots"])
    run_dir = Path(settings["run_dir"])
    fleet = [
        Transceiver(run_dir, slot, [c for c in clients if c[0] % slots == slot])
        for slot in range(slots)
    ]
    async with asyncio.timeout(WAIT_S):
        await asyncio.gather(*(transceiver.ready for transceiver in fleet))
    ufrags = {flow: ufrag for transceiver in fleet for flow, ufrag in transceiver.ufrags.items()}
    lines = b"".join(ufrags[flow] for flow, _, _ in clients)
    (run_dir / "ufrags").write_bytes(lines)
    socket.send_fds(to_bench, [b"ready"], [t.listener.fileno() for t in fleet])
    to_bench.setblocking(False)
    await asyncio.get_running_loop().sock_recv(to_bench, 1)


if __name__ == "__main__":
    asyncio.run(run(json.loads(sys.argv[1])))
