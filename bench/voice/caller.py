"""One process that holds many calls and costs little: Opus packets made before, sent on time, judged afterwards.

Run by contenders.py: `python caller.py JSON`. Sets up the calls, says "ready", waits for a line, talks, and
prints one line of JSON. While it talks nothing is decoded or decrypted, and no event loop runs.
"""

import asyncio
import contextlib
import itertools
import json
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import uvloop
from pylibsrtp import Error as SrtpError

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[0] = str(ROOT)

from bench.voice.call import TICKS, TalkingCall
from bench.voice.network import Networks
from bench.voice.said import PACKET_S, RATE, likeness_to, payloads
from bench.voice.watch import Watched
from tests.support.impair import Impairment
from tests.support.lean import Caller
from voicerelay.transceiver.voice import opus, rtp

CHECK_S = 2.5  # as browsers do (RFC 7675)
REPORT_S = 1.0
DRAIN_S = 0.002
DECODED_CALLS = 3
SHIFT = 37  # packets by which each call is ahead of the one before it in what it says
CONNECT_AT_ONCE = 2

Event = tuple[float, int, int]  # seconds from the beginning, call, packet


@dataclass
class Talk:
    """What is asked of this process."""

    url: str
    calls: int
    warm_s: float
    seconds: float
    watch: list[int] = field(default_factory=list)  # pids to charge
    cpu: int | None = None
    priority: int = 0
    impairments: list[dict[str, Any]] = field(default_factory=list)  # of the calls, in turn
    impaired_s: tuple[float, float] = (0.0, 0.0)  # from, to
    seed: int = 1


def evenly(talk: Talk) -> Iterator[Event]:
    """Every call each 20 ms, all of them spread over the 20 ms."""
    step = PACKET_S / talk.calls
    for number in range(round((talk.warm_s + talk.seconds) / PACKET_S)):
        for call in range(talk.calls):
            yield number * PACKET_S + call * step, call, number


class Party:
    """All calls of this process, talking."""

    def __init__(self, talk: Talk, calls: list[TalkingCall], networks: Networks | None) -> None:
        self._talk = talk
        self._networks = networks
        self._calls = calls
        self._poll = select.epoll()
        self._by_fd = {call.fileno(): call for call in calls}
        for fd in self._by_fd:
            self._poll.register(fd, select.EPOLLIN)
        self._spoken = payloads()
        self._lags: list[float] = []  # of this process behind its own plan, s

    def run(self) -> dict[str, Any]:
        talk = self._talk
        watched = Watched(talk.watch)
        start = time.monotonic() + 0.05
        window = start + talk.warm_s
        before: dict[int, float] | None = None
        next_drain, next_care, care = 0.0, start, 0
        own = time.process_time()
        turns = self._turns(start)
        for offset, index, number in evenly(talk):
            due = start + offset
            while turns and due >= turns[0][0]:
                turns.pop(0)[1]()
            now = time.monotonic()
            if now < due:
                time.sleep(due - now)
                now = time.monotonic()
            if before is None and now >= window:
                before, began_at, window_wall = watched.cpu_s(), now, time.time()
            self._lags.append(now - due)
            call = self._calls[index]
            spoken = self._spoken
            call.send_packet(number, spoken[(number + SHIFT * index) % len(spoken)])
            call.sent_in_window += before is not None
            if now >= next_drain:
                self._drain()
                next_drain = now + DRAIN_S
            while now >= next_care:  # one call's check and report at a time
                call = self._calls[care % len(self._calls)]
                call.send_report()
                if care // len(self._calls) % max(1, round(CHECK_S / REPORT_S)) == 0:
                    call.send_check()
                care += 1
                next_care += REPORT_S / len(self._calls)
        self._drain()
        assert before is not None
        after, ended_at, wall = watched.cpu_s(), time.monotonic(), time.time()
        figures = {
            "window_s": ended_at - began_at,
            "began": began_at,
            "ended": ended_at,
            "start": start,
            "cpu_s": {pid: after[pid] - before[pid] for pid in after},
            "sizes": watched.sizes(),
            "caller_cpu_s": time.process_time() - own,
            "caller_lag_p99_ms": 1000 * sorted(self._lags)[int(len(self._lags) * 0.99)],
        }
        if self._networks is not None:
            figures |= self._networks.figures()
        return figures | self._judge(window_wall, wall)

    def _turns(self, start: float) -> list[tuple[float, Callable[[], None]]]:
        """When the networks turn bad, and good again."""
        if self._networks is None:
            return []
        begin, end = self._talk.impaired_s
        return [(start + begin, self._networks.spoil), (start + end, self._networks.mend)]

    def _drain(self) -> None:
        for fd, _ in self._poll.poll(0):
            self._by_fd[fd].take_all()

    def _judge(self, since: float, until: float) -> dict[str, Any]:
        """Decrypt all that came and look at its order, its rate and its time."""
        span = until - since
        rates_in, gaps, lateness, heard, broken = [], 0, [], [], 0
        for index, call in enumerate(self._calls):
            packets = []
            assert call._rx is not None
            for at, data in call.received:
                try:
                    packets.append((at, rtp.parse_rtp(call._rx.unprotect(data))))
                except (SrtpError, rtp.RtpError):
                    broken += 1
            inside = [(at, packet) for at, packet in packets if since <= at < until]
            rates_in.append(len(inside) / span)
            for (_, one), (_, other) in itertools.pairwise(inside):
                step = (other.sequence - one.sequence) & 0xFFFF
                ticks = (other.timestamp - one.timestamp) & 0xFFFFFFFF
                gaps += step != 1 or ticks != TICKS
            if inside:
                first = inside[0][1].timestamp
                late = [
                    at - ((packet.timestamp - first) & 0xFFFFFFFF) / opus.RATES[-1]
                    for at, packet in inside
                ]
                lateness += [value - min(late) for value in late]
            if index < DECODED_CALLS and len(inside) > 50:
                decoder = opus.Decoder(RATE)
                heard.append(likeness_to([decoder.decode(p.payload) for _, p in inside]))
        lateness.sort()
        rates_out = [call.sent_in_window / span for call in self._calls]
        return {
            "frames_in": sum(rates_in) * span,  # from the server
            "frames_out": sum(rates_out) * span,
            "rate_in_min": min(rates_in),
            "rate_in_max": max(rates_in),
            "rate_out_min": min(rates_out),
            "out_of_line": gaps,
            "not_authentic": broken,
            "jitter_p50_ms": 1000 * lateness[len(lateness) // 2] if lateness else None,
            "jitter_p99_ms": 1000 * lateness[int(len(lateness) * 0.99)] if lateness else None,
            "likeness": min(heard, default=None),
        }


async def set_up(talk: Talk, networks: Networks | None) -> list[TalkingCall]:
    caller = Caller(talk.url)
    calls = [
        TalkingCall(caller, partial(networks.between, index)) if networks else TalkingCall(caller)
        for index in range(talk.calls)
    ]
    waiting = iter(calls)
    async with aiohttp.ClientSession() as http:

        async def work() -> None:
            for call in waiting:
                await call.connect(http)

        await asyncio.gather(*(work() for _ in range(CONNECT_AT_ONCE)))
    return calls


async def hang_up(url: str, calls: list[TalkingCall]) -> None:
    async with aiohttp.ClientSession() as http:
        for call in calls:
            with contextlib.suppress(aiohttp.ClientError):
                async with http.delete(url + call.resource):
                    pass
            call.close()


def main() -> None:
    talk = Talk(**json.loads(sys.argv[1]))
    if talk.cpu is not None:
        os.sched_setaffinity(0, {talk.cpu})
    if talk.priority:
        os.setpriority(os.PRIO_PROCESS, 0, talk.priority)
    payloads()
    empty = Watched(talk.watch).sizes()
    networks = None
    if talk.impairments:
        networks = Networks([Impairment(**how) for how in talk.impairments], talk.seed)
    calls = uvloop.run(set_up(talk, networks))
    print("ready", flush=True)
    sys.stdin.readline()
    figures = Party(talk, calls, networks).run() | {
        "sizes_before": empty,
        "resources": [call.resource for call in calls],
    }
    print(json.dumps(figures), flush=True)
    sys.stdin.readline()
    uvloop.run(hang_up(talk.url, calls))
    print("gone", flush=True)


if __name__ == "__main__":
    main()
