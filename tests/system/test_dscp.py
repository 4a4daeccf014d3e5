"""Voice is marked Expedited Forwarding (RFC 8837 §5) on the wire, whichever socket it leaves by."""

import asyncio
import os
import select
import socket
from collections.abc import Iterator

import pytest

from tests.support.callers import callers
from tests.support.server import Server, server
from voicerelay.shm import stun

pytestmark = pytest.mark.system

EXPEDITED_FORWARDING = 46
PATIENCE_MS = 5_000
FAMILIES = {
    "127.0.0.1": (socket.AF_INET, socket.IPPROTO_IP, socket.IP_RECVTOS),
    "::1": (socket.AF_INET6, socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS),
}


@pytest.fixture(scope="module")
def running(plane_options: list[str]) -> Iterator[Server]:
    with server(listen=tuple(FAMILIES), extra=plane_options) as started:
        yield started


def line_of(answer: str, name: str) -> bytes:
    start = f"a={name}:"
    return next(x.removeprefix(start) for x in answer.splitlines() if x.startswith(start)).encode()


@pytest.mark.parametrize("host", FAMILIES)
def test_what_we_send_is_marked(running: Server, host: str) -> None:
    family, level, option = FAMILIES[host]

    async def scenario() -> None:
        async with callers(running.http_url, 1) as ([call], _):
            # given a client's second address that asks for the mark of what it receives
            ours = line_of(call.answer, "ice-ufrag")
            name = ours + b":" + line_of(call.pc.localDescription.sdp, "ice-ufrag")
            check = stun.build(
                stun.BINDING_REQUEST,
                os.urandom(12),
                [
                    (stun.USERNAME, name),
                    (stun.PRIORITY, bytes(4)),
                    (stun.ICE_CONTROLLING, bytes(8)),
                ],
                line_of(call.answer, "ice-pwd"),
            )
            with socket.socket(family, socket.SOCK_DGRAM) as client:
                client.setsockopt(level, option, 1)
                client.connect((host, running.port))

                # when the transceiver answers its check
                client.send(check)
                poll = select.poll()
                poll.register(client, select.POLLIN)
                assert await asyncio.to_thread(poll.poll, PATIENCE_MS)
                data, ancillary, _, _ = client.recvmsg(2048, 64)

            # then the answer is marked, and not for congestion
            assert stun.parse(data).kind == stun.BINDING_SUCCESS
            ((_, _, mark),) = ancillary
            assert int.from_bytes(mark, "little") == EXPEDITED_FORWARDING << 2

    asyncio.run(scenario())
