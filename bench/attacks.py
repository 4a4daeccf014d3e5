"""The attacks of docs/security.md in full numbers, on a running server: `python bench/attacks.py`.

Two calls talk meanwhile. Prints target, measured, pass or fail for each; exits 1 if one failed. Seeded.
"""

import argparse
import asyncio
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.callers import callers, still_there
from tests.support.client import Call
from tests.support.server import Server, server
from tests.support.strangers import (
    answer_values,
    bad_checks,
    memory,
    received,
    silent,
    stranger,
    table_bytes,
)
from voicerelay.cli.status import read_status
from voicerelay.shm import stun

MAX_UNJUDGED = 1500  # packets sent and not yet counted: fewer than a receive buffer holds
MEMORY_SLACK_BYTES = 4 << 20
HELLO = b"\x16\xfe\xfd" + bytes(8) + b"\x00\x80\x01\x00\x00\x74" + bytes(6) + b"\xfe\xfd"

failed: list[str] = []


def judge(attack: str, target: str, measured: str, passed: bool) -> None:
    print(f"{attack:<44}{target:<26}{measured:<26}{'pass' if passed else 'FAIL'}", flush=True)
    if not passed:
        failed.append(attack)


def random_ufrags(rng: random.Random, count: int) -> Iterator[bytes]:
    packet = stun.build(stun.BINDING_REQUEST, bytes(12), [(stun.USERNAME, bytes(20) + b":a")], b"x")
    head, tail = packet.split(bytes(20))
    for _ in range(count):
        yield head + rng.randbytes(10).hex().encode() + tail


async def flood(running: Server, sock: socket.socket, packets: Iterator[bytes]) -> tuple[int, int]:
    """Send no faster than they are judged; how many, and their bytes."""
    before, sent, size = received(running), 0, 0
    for packet in packets:
        sock.sendto(packet, ("127.0.0.1", running.port))
        sent, size = sent + 1, size + len(packet)
        while sent % 250 == 0 and received(running) < before + sent - MAX_UNJUDGED:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    async with asyncio.timeout(30):
        while received(running) < before + sent:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return sent, size


def dropped(running: Server) -> int:
    return sum(read_status(running.run_dir)["dropped"].values())


async def attack(
    running: Server, calls: list[Call], name: str, packets: Callable[[], Iterator[bytes]]
) -> None:
    """Whatever it is: no answer, tables untouched, no memory, all of it dropped, the calls go on."""
    tables, rss, before = table_bytes(running), memory(running), dropped(running)
    begun = time.monotonic()
    with stranger() as sock:
        sent, size = await flood(running, sock, packets())
        answered = not silent(sock)
    took = time.monotonic() - begun
    lost = sent - (dropped(running) - before)
    grown = max(now - rss[pid] for pid, now in memory(running).items()) / 1024
    print(f"-- {name}: {sent} packets, {size >> 10} KiB in {took:.1f} s")
    judge("  answers", "0 bytes", "some" if answered else "0 bytes", not answered)
    judge("  not dropped and counted", "0", str(max(0, lost)), lost <= 0)
    same = table_bytes(running) == tables
    judge("  routes and flows", "byte-identical", "identical" if same else "changed", same)
    judge("  memory", "at most 4096 KiB", f"{grown:.0f} KiB", grown * 1024 < MEMORY_SLACK_BYTES)
    alive = all(await asyncio.gather(*(still_there(call) for call in calls)))
    judge("  calls", "go on", "go on" if alive else "lost", alive)


async def run(running: Server, scale: float) -> None:
    rng = random.Random(20261125)
    async with callers(running.http_url, 2) as (calls, _):
        ufrag, _password = answer_values(calls[0])
        bad = bad_checks(ufrag)

        def guesses() -> Iterator[bytes]:
            return random_ufrags(rng, round(1_000_000 * scale))

        def poison() -> Iterator[bytes]:
            return (bad[n % len(bad)] for n in range(round(100_000 * scale)))

        def hellos() -> Iterator[bytes]:
            return (HELLO + rng.randbytes(110) for _ in range(round(100_000 * scale)))

        def junk() -> Iterator[bytes]:
            return (rng.randbytes(rng.randrange(1, 1200)) for _ in range(round(100_000 * scale)))

        await attack(running, calls, "random ufrags", guesses)
        await attack(running, calls, "bad checks for a valid ufrag", poison)
        await attack(running, calls, "DTLS hellos", hellos)
        await attack(running, calls, "junk", junk)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="part of the full numbers")
    given = parser.parse_args()
    with server(relays=1, transceivers=1, extra=["--steering", "off"]) as running:
        asyncio.run(run(running, given.scale))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
