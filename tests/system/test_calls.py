"""Whole calls over one UDP port: sockets, content, candidates, restart, and who answers for a session."""

import asyncio
import re
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.callers import callers, heard_all, still_there, talk_all
from tests.support.client import Call
from tests.support.server import Server, server
from voicerelay.cli.place import SLOTS_PER_TRANSCEIVER
from voicerelay.cli.status import read_status
from voicerelay.shm import stun

pytestmark = pytest.mark.system

RELAYS = 3
TRANSCEIVERS = 2
MANY = 50


@pytest.fixture(scope="module")
def running(plane_options: list[str]) -> Iterator[Server]:
    with server(relays=RELAYS, transceivers=TRANSCEIVERS, extra=plane_options) as started:
        yield started


def udp_sockets(running: Server) -> set[str]:
    """Inodes of all UDP sockets that the server's processes have open."""
    status = read_status(running.run_dir)
    processes = [*status["relays"], *status["transceivers"], status["control"]]
    pids = [status["pid"], *(process["pid"] for process in processes)]
    udp = set()
    for table in ("udp", "udp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            udp.add(line.split()[9])
    found = set()
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                match = re.fullmatch(r"socket:\[(\d+)\]", str(fd.readlink()))
            except FileNotFoundError:
                continue
            if match and match[1] in udp:
                found.add(match[1])
    return found


def test_fifty_calls_need_no_socket_more_than_the_processes_have(
    running: Server, plane: str
) -> None:
    async def scenario() -> None:
        steered = SLOTS_PER_TRANSCEIVER * TRANSCEIVERS if plane == "steering" else 0
        assert read_status(running.run_dir)["sockets"] == RELAYS + steered
        async with callers(running.http_url, MANY) as (calls, _):
            assert len(udp_sockets(running)) == read_status(running.run_dir)["sockets"]
            assert read_status(running.run_dir)["sessions"] == MANY
            await talk_all(calls, 1.0)
            heard = await asyncio.gather(*(heard_all(call, call.sent - 10) for call in calls))
            assert all(heard)

    asyncio.run(scenario())


def test_calls_are_shared_among_the_transceivers(running: Server) -> None:
    async def scenario() -> None:
        async with callers(running.http_url, 10):
            sessions = [t["sessions"] for t in read_status(running.run_dir)["transceivers"]]
            assert sum(sessions) == 10
            assert abs(sessions[0] - sessions[1]) <= 2

    asyncio.run(scenario())


def test_everything_said_comes_back_once_and_in_order(running: Server) -> None:
    async def scenario() -> None:
        async with callers(running.http_url, 1) as (calls, _):
            await calls[0].talk(3.0)
            assert await heard_all(calls[0], 0)
            assert calls[0].numbers() == list(range(calls[0].sent))
            steps = {b.timestamp - a.timestamp for a, b in pairs(calls[0])}
            assert steps <= {960, 960 - (1 << 32)}

    asyncio.run(scenario())


def pairs(call: Call) -> list[Any]:
    return list(zip(call.received, call.received[1:], strict=False))


def test_an_answer_has_one_candidate_and_is_lite(running: Server) -> None:
    async def scenario() -> None:
        async with callers(running.http_url, 1) as (calls, _):
            answer = calls[0].answer
            assert answer.count("a=candidate:") == 1
            assert f" 127.0.0.1 {running.port} typ host" in answer
            assert "a=ice-lite" in answer

    asyncio.run(scenario())


def test_local_names_in_an_offer_cost_no_time_and_are_not_asked_for(running: Server) -> None:
    local = (
        "a=candidate:9 1 udp 2113937151 0b7dd8a2-2a32-4f0c-b0a3-9d7c0d2a1e11.local 50000 typ host"
    )

    def with_local(sdp: str) -> str:
        return sdp.replace("a=ice-ufrag", f"{local}\r\na=ice-ufrag")

    async def scenario() -> None:
        async with aiohttp.ClientSession() as http:
            call = Call(running.http_url)
            await call.connect(http, with_local)
            trickle = await http.patch(
                running.http_url + call.resource,
                data=f"a=mid:0\r\n{local}\r\n",
                headers={
                    "Content-Type": "application/trickle-ice-sdpfrag",
                    "If-Match": call.etag,
                },
            )
            assert trickle.status == 204
            assert await still_there(call)
            await call.close()

    asyncio.run(scenario())


def test_any_transceiver_answers_for_any_session(running: Server) -> None:
    async def scenario() -> None:
        async with callers(running.http_url, 4) as (calls, _):
            # Fresh connections land on either transceiver; the kernel decides.
            for call in calls:
                for _ in range(6):
                    connector = aiohttp.TCPConnector(force_close=True)
                    async with (
                        aiohttp.ClientSession(connector=connector) as fresh,
                        fresh.get(
                            running.http_url + call.resource.replace("/whip/", "/sessions/")
                        ) as response,
                    ):
                        assert response.status == 200
            connector = aiohttp.TCPConnector(force_close=True)
            async with aiohttp.ClientSession(connector=connector) as fresh:
                for call in calls:
                    assert await call.hang_up(fresh) == 200
                    assert await call.hang_up(fresh) == 404
            status = read_status(running.run_dir)
            assert (status["sessions"], status["routes"], status["flows"]) == (0, 0, 0)

    asyncio.run(scenario())


def test_hanging_up_is_told_to_the_client(running: Server) -> None:
    async def scenario() -> None:
        async with callers(running.http_url, 1) as (calls, http):
            assert await calls[0].hang_up(http) == 200
            await asyncio.wait_for(calls[0].closed.wait(), 5)

    asyncio.run(scenario())


def test_an_ice_restart_takes_effect_on_the_wire(running: Server) -> None:
    """A client of our own: checks with new credentials are answered, old ones only for a while."""

    async def scenario() -> None:
        async with callers(running.http_url, 1) as (calls, http):
            call = calls[0]
            restarted = await http.patch(
                running.http_url + call.resource,
                data="a=ice-ufrag:newone\r\na=ice-pwd:newpasswordnewpasswordnew\r\n",
                headers={"Content-Type": "application/trickle-ice-sdpfrag", "If-Match": '"*"'},
            )
            fragment = await restarted.text()
            ufrag = fragment.partition("a=ice-ufrag:")[2].partition("\r\n")[0].encode()
            password = fragment.partition("a=ice-pwd:")[2].partition("\r\n")[0].encode()

            assert restarted.status == 200
            assert restarted.headers["ETag"] != call.etag
            assert ufrag.decode() not in call.answer
            assert read_status(running.run_dir)["routes"] == 2
            reply = await check(running.port, ufrag + b":newone", password)
            assert reply is not None
            assert reply.kind == stun.BINDING_SUCCESS
            # The old path carries the call on until the client leaves it.
            assert await still_there(call)

    asyncio.run(scenario())


async def check(port: int, username: bytes, password: bytes) -> stun.Message | None:
    """Send one connectivity check from a fresh address; the verified reply, or None."""
    loop = asyncio.get_running_loop()
    transaction = struct.pack("!Id", 1, time.monotonic())
    attributes = [
        (stun.USERNAME, username),
        (stun.PRIORITY, b"\x6e\x00\x01\xff"),
        (stun.ICE_CONTROLLING, bytes(8)),
    ]
    request = stun.build(stun.BINDING_REQUEST, transaction, attributes, password)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(("127.0.0.1", port))
        await loop.sock_sendall(sock, request)
        try:
            data = await asyncio.wait_for(loop.sock_recv(sock, 2048), 2.0)
        except TimeoutError:
            return None
    message = stun.parse(data)
    assert message.transaction == transaction
    assert stun.integrity_holds(data, message, password)
    return message
