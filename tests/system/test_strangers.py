"""Packets of strangers: no reply, no flow, no ended call, no memory."""

import asyncio
import os
import random
import socket
import struct
import time
from collections.abc import Iterator

import aiohttp
import pytest

from tests.support.callers import callers, still_there
from tests.support.client import Call
from tests.support.lean import Caller
from tests.support.server import Server, server
from tests.support.strangers import (
    JUNK,
    PLAINTEXT_ALERT,
    Recorded,
    answer_values,
    bad_checks,
    counted,
    dropped,
    memory,
    packets_in,
    received,
    silent,
    stranger,
    table_bytes,
    unknown_ufrags,
    until_dropped,
)
from voicerelay.cli.status import read_status
from voicerelay.shm import stun

pytestmark = pytest.mark.system

MEMORY_SLACK_BYTES = 4 << 20
RANDOM_UFRAGS = 100_000


@pytest.fixture(scope="module")
def running(plane_options: list[str]) -> Iterator[Server]:
    with server(relays=2, transceivers=1, extra=plane_options) as started:
        yield started


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


def test_a_recorded_call_that_is_played_again_changes_nothing(running: Server) -> None:
    async def scenario() -> None:
        async with aiohttp.ClientSession() as http:
            # given a call, every packet of which was recorded
            call = Recorded(Caller(running.http_url))
            await call.connect(http)
            for _ in range(20):
                call.say()
            async with asyncio.timeout(20):
                while await packets_in(running, http, call) < 21:
                    await asyncio.sleep(0.01)
            tables = table_bytes(running)
            reasons = {name: dropped(running, name) for name in ("srtp", "replayed_check")}
            media = [packet for packet in call.packets if packet[0] >= 128]

            # when it is played again from elsewhere, and its media from its own address
            with stranger() as thief:
                for packet in call.packets:
                    thief.sendto(packet, ("127.0.0.1", running.port))
                await until_dropped(running, "replayed_check", reasons["replayed_check"] + 1)
                call.again(media)
                await until_dropped(running, "srtp", reasons["srtp"] + len(media))

                # then nobody is answered, nothing is heard twice, and nothing has moved
                assert silent(thief)
            assert await packets_in(running, http, call) == 21
            assert table_bytes(running) == tables
            await call.hang_up(http)

    asyncio.run(scenario())


def test_floods_at_a_call_take_no_memory(running: Server) -> None:
    rng = random.Random(20261125)

    async def scenario() -> None:
        async with callers(running.http_url, 2) as (calls, http):
            # given a call in its handshake, so that DTLS is open to whoever can check
            victim = Recorded(Caller(running.http_url))
            await victim.connect(http)
            ufrag, _ = answer_values(calls[0])
            hello = (
                b"\x16\xfe\xfd" + bytes(8) + b"\x00\x80\x01\x00\x00\x74" + bytes(6) + b"\xfe\xfd"
            )
            shapes = [
                lambda: hello + rng.randbytes(110),
                lambda: b"\x01\x01" + rng.randbytes(60),
                lambda: rng.choice(bad_checks(ufrag)),
                lambda: b"\x80\x6f" + rng.randbytes(100),
            ]
            rss, tables, before = memory(running), table_bytes(running), received(running)

            # when 20,000 packets come from strangers, and from the victim's own address
            with stranger() as sock:
                for number in range(20_000):
                    packet = shapes[number % len(shapes)]()
                    if number % 2:
                        sock.sendto(packet, ("127.0.0.1", running.port))
                    else:
                        victim.again([packet])
                    if number % 500 == 0:
                        await asyncio.sleep(0.02)
                await counted(running, before, 10_000)
                assert silent(sock)

            # then it cost nothing that stays
            grown = {pid: now - rss[pid] for pid, now in memory(running).items()}
            assert max(grown.values()) < MEMORY_SLACK_BYTES
            assert table_bytes(running) == tables
            assert all(await asyncio.gather(*(still_there(call) for call in calls)))
            await victim.hang_up(http)

    asyncio.run(scenario())


def test_nobody_named_by_a_candidate_is_contacted(running: Server) -> None:
    async def scenario() -> None:
        with stranger() as udp, socket.create_server(("127.0.0.1", 0)) as tcp:
            # given somebody who has nothing to do with the call
            udp.bind(("127.0.0.1", 0))
            tcp.setblocking(False)
            lines = [
                f"a=candidate:1 1 udp 2130706431 127.0.0.1 {udp.getsockname()[1]} typ host",
                f"a=candidate:2 1 tcp 1 127.0.0.1 {tcp.getsockname()[1]} typ host tcptype passive",
                f"a=candidate:3 1 udp 1 localhost {udp.getsockname()[1]} typ host",
            ]
            named = "".join(f"{line}\r\n" for line in lines)
            ids = {"webrtc_id": "w", "pc_id": None}

            async with aiohttp.ClientSession() as http:
                call = Call(running.http_url)
                # when he is named in an offer, and in what follows it by any contract
                await call.connect(http, mangle=lambda sdp: sdp + named)
                headers = {"Content-Type": "application/trickle-ice-sdpfrag", "If-Match": call.etag}
                url = f"{running.http_url}{call.resource}"
                async with http.patch(url, data=named, headers=headers) as patched:
                    assert patched.status == 204
                for path in ("/api/offer", "/webrtc/offer", "/v1/realtime/calls"):
                    sdp = call.pc.localDescription.sdp + named
                    body = {"sdp": sdp, "type": "offer"} | ids
                    how = {"json": body} if path[1] != "v" else {"data": sdp}
                    kind = {} if path[1] != "v" else {"Content-Type": "application/sdp"}
                    async with http.post(f"{running.http_url}{path}", headers=kind, **how) as made:
                        assert made.status in (200, 201)
                candidate = {"candidate": lines[0][2:], "sdpMid": "0"}
                trickled = {"candidate": candidate, "type": "ice-candidate", "webrtc_id": "w"}
                async with http.post(f"{running.http_url}/webrtc/offer", json=trickled) as told:
                    assert (await told.json())["status"] == "success"
                assert await still_there(call)
                await call.close()

            # then he hears nothing
            assert silent(udp)
            with pytest.raises(BlockingIOError):
                tcp.accept()

    asyncio.run(scenario())


def test_what_strangers_do_fills_no_log_and_tells_nothing_of_anybody(running: Server) -> None:
    """HTTP that is none, guesses, bad offers; UDP that is none."""
    key = "guessed-key-0123456789"
    bad_http = [
        b"\x16\x03\x01\x02",
        b"GET / HTTP/1.1\r\nAuthorization: " + key.encode() + b"\x00\r\n\r\n",
    ]

    async def scenario() -> int:
        lines = running.output.count("\n")
        begun = time.monotonic()
        with stranger() as sock:
            async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as http:
                for number in range(50):
                    for packet in JUNK[1:-1]:
                        sock.sendto(packet, ("127.0.0.1", running.port))
                    sdp = {"Content-Type": "application/sdp"}
                    url = running.http_url
                    for path, body in (("/whip", b"v=0\r\na=ice-pwd:x"), ("/whip", b"\xff")):
                        async with http.post(url + path, data=body, headers=sdp) as refused:
                            assert 400 <= refused.status < 500
                    async with http.delete(f"{url}/whip/{number:027}") as unknown:
                        assert unknown.status == 404
                    reader, writer = await asyncio.open_connection(
                        "127.0.0.1", url.rpartition(":")[2]
                    )
                    writer.write(bad_http[number % 2])
                    await reader.read()
                    writer.close()
        return running.output.count("\n") - lines - int(10 * (time.monotonic() - begun))

    before = len(running.output)
    assert asyncio.run(scenario()) <= 10
    said = running.output[before:]
    for private in (key, "127.0.0.1", "ice-pwd", "v=0"):
        assert private not in said
