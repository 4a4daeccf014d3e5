"""The relay one writes first in Python: a uvloop datagram protocol, one sendto for each packet.

`uvloop_relay.py PORT SINK_PORT...`. A flow's transceiver is looked up by the client's address.
"""

import asyncio
import socket
import sys

import uvloop

BUFFER_BYTES = 8 << 20
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33


class Relay(asyncio.DatagramProtocol):
    """Forwards what comes from a client to the transceiver that owns it."""

    def __init__(self, sinks: list[asyncio.DatagramTransport]) -> None:
        self._sinks = sinks
        self._flows: dict[tuple[str, int], asyncio.DatagramTransport] = {}

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        sink = self._flows.get(addr)
        if sink is None:
            last = int(addr[0].rpartition(".")[2])
            sink = self._flows[addr] = self._sinks[last % len(self._sinks)]
        sink.sendto(data)


async def run(port: int, sink_ports: list[int]) -> None:
    loop = asyncio.get_running_loop()
    sinks = []
    for sink_port in sink_ports:
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=("127.0.0.1", sink_port)
        )
        sinks.append(transport)
    public = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for option, plain in (
        (_SO_RCVBUFFORCE, socket.SO_RCVBUF),
        (_SO_SNDBUFFORCE, socket.SO_SNDBUF),
    ):
        try:
            public.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        except PermissionError:
            public.setsockopt(socket.SOL_SOCKET, plain, BUFFER_BYTES)
    public.bind(("127.0.0.1", port))
    await loop.create_datagram_endpoint(lambda: Relay(sinks), sock=public)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(run(int(sys.argv[1]), [int(text) for text in sys.argv[2:]]))
