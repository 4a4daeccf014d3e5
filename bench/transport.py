"""Which socket carries frames from relay to transceiver best: `python bench/transport.py`.

One run, about a minute: Unix SOCK_SEQPACKET, loopback UDP, Unix SOCK_DGRAM and Unix SOCK_STREAM with a
length before each frame, by turns. CPU of the sending process (as relay/links.py sends) and of the
receiving one (as transceiver/mux.py reads, without what it does with a packet) for frames of 1 to 64
packets, at 20k packets/s and saturated; then what happens when the receiver is busy, stopped or killed,
and when another user sends. Kept in bench/results/transport.json.
"""

import argparse
import contextlib
import errno
import json
import os
import platform
import signal
import socket
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.frame_sockets import (
    TRANSPORTS,
    UNTUNED_BUFFER_BYTES,
    Receiver,
    Transport,
    receiving,
)
from voicerelay.shm.frame import entry_header

RESULTS = ROOT / "bench" / "results" / "transport.json"
PACKET = entry_header(172, 0, bytes(20)), bytes(172)
FRAME_PACKETS = [1, 4, 16, 64]
RATE = 20_000  # packets/s: 400 calls
WAKE_S = 0.0002  # the relay's coalescing wait
WINDOW = 64  # frames under way when saturated
RUN_S = 0.3
BURST = 64  # frames
BUSY_S = 0.02
NOBODY = 65534
Figures = dict[str, float]


# ---- what it costs ---------------------------------------------------------------------------------


def cost(
    transport: Transport | None, receiver: Receiver, sock: socket.socket, packets: int, paced: bool
) -> Figures:
    """CPU of both sides for frames of so many packets. Without a transport: what pacing costs."""
    parts = PACKET * packets
    sent = refused = 0
    first, receiver_cpu = receiver.frames(), receiver.cpu_s()
    cpu, begin = time.process_time(), time.monotonic()
    while (elapsed := time.monotonic() - begin) < RUN_S:
        if paced:
            due = int(elapsed * RATE / packets) - sent - refused
        else:
            due = WINDOW - (sent - receiver.frames() + first)
        for _ in range(due):
            frame = b"".join(parts)
            if transport is None or transport.send(sock, frame):
                sent += 1
            elif paced:
                refused += 1
            else:
                break  # full: wait, as for the window
        if paced or due <= 0 or sent - receiver.frames() + first > WINDOW // 2:
            time.sleep(WAKE_S)
    cpu = time.process_time() - cpu
    got = receiver.settle(first + sent) - first if transport else sent
    receiver_cpu = receiver.cpu_s() - receiver_cpu
    return {
        "send_us": cpu / max(sent, 1) * 1e6,
        "receive_us": receiver_cpu / max(got, 1) * 1e6,
        "lost": sent - got,
        "refused": refused,
        "frames_per_s": sent / RUN_S,
    }


def measure_costs(rounds: int) -> dict[str, dict[str, Figures]]:
    """Transport -> "<mode> <packets>" -> medians; the transports take turns."""
    runs: dict[str, dict[str, list[Figures]]] = {}
    for _ in range(rounds):
        for kind in TRANSPORTS:
            with receiving(kind) as (transport, receiver, sock):
                mine = runs.setdefault(kind.key, {})
                for packets in FRAME_PACKETS:
                    for paced in (True, False):
                        name = f"{'paced' if paced else 'saturated'} {packets}"
                        figures = cost(transport, receiver, sock, packets, paced)
                        mine.setdefault(name, []).append(figures)
                    if kind is TRANSPORTS[0]:
                        none = runs.setdefault("none", {})
                        figures = cost(None, receiver, sock, packets, True)
                        none.setdefault(f"paced {packets}", []).append(figures)
    return {
        key: {
            name: {what: median(run[what] for run in each) for what in each[0]}
            for name, each in mine.items()
        }
        for key, mine in runs.items()
    }


# ---- what goes wrong -------------------------------------------------------------------------------


def burst(kind: type[Transport], packets: int) -> Figures:
    """A burst to a receiver that does nothing for 20 ms, with the buffers of an untuned Linux."""
    frame = b"".join(PACKET * packets)
    with receiving(kind, UNTUNED_BUFFER_BYTES) as (transport, receiver, sock):
        first = receiver.frames()
        receiver.signal(signal.SIGSTOP)
        taken = sum(transport.send(sock, frame) for _ in range(BURST))
        time.sleep(BUSY_S)
        receiver.signal(signal.SIGCONT)
        got = receiver.settle(first + taken) - first
        return {"refused": BURST - taken, "lost_silently": taken - got}


def stopped(kind: type[Transport]) -> Figures:
    """What a receiver that reads no more costs the sender. Frames of 16 packets."""
    frame = b"".join(PACKET * 16)
    with receiving(kind) as (transport, receiver, sock):
        first = receiver.frames()
        receiver.signal(signal.SIGSTOP)
        taken, longest, cpu = 0, 0.0, time.process_time()
        attempts = 4000
        for _ in range(attempts):
            begin = time.process_time()
            taken += transport.send(sock, frame)
            longest = max(longest, time.process_time() - begin)
        cpu = time.process_time() - cpu
        receiver.signal(signal.SIGCONT)
        got = receiver.settle(first + taken) - first
        return {
            "us_a_frame": cpu / attempts * 1e6,
            "longest_us": longest * 1e6,
            "taken": taken,
            "lost_silently": taken - got,
        }


def killed(kind: type[Transport]) -> dict[str, str | int]:
    """Whether the sender learns of the receiver's death, and after how many frames."""
    with receiving(kind) as (transport, receiver, sock):
        transport.listener.close()  # this process's own copy
        receiver.signal(signal.SIGKILL)
        os.waitid(os.P_PID, receiver.pid, os.WEXITED | os.WNOWAIT)
        for number in range(100):
            try:
                transport.send(sock, b"".join(PACKET))
            except OSError as exc:
                return {"told": errno.errorcode[exc.errno or 0], "after_frames": number}
        return {"told": "never", "after_frames": 100}


def injected(kind: type[Transport]) -> str:
    """Whether another user's frame arrives."""
    if os.geteuid():
        return "not tried: needs root to become another user"
    with receiving(kind) as (transport, receiver, _):
        before = receiver.frames()
        address = transport.address()
        pid = os.fork()
        if pid == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            with contextlib.suppress(OSError):
                sock = socket.socket(transport.family, transport.kind)
                sock.connect(address)
                transport.send(sock, b"".join(PACKET))
            os._exit(0)
        os.waitpid(pid, 0)
        return (
            "any local user"
            if receiver.settle(before + 1) > before
            else "refused by the file's mode"
        )


# ---- the answer ------------------------------------------------------------------------------------


def _cell(name: str, one: Figures | None) -> str:
    if one is None:
        return ""
    both = one["send_us"] + one["receive_us"]
    return f"{one['send_us']:.1f} + {one['receive_us']:.1f} ({both / int(name.split()[1]):.2f})"


def answer(kept: dict[str, Any]) -> str:
    costs, wrong = kept["costs"], kept["wrong"]
    titles = {kind.key: kind.title for kind in TRANSPORTS} | {"none": "nothing sent"}
    lines = [
        "CPU µs of a frame, sender + receiver, by packets in it; in brackets µs of a packet, both:\n",
        "| transport | " + " | ".join(costs["seqpacket"]) + " |",
        "|---" * (len(costs["seqpacket"]) + 1) + "|",
    ]
    for key, figures in costs.items():
        cells = [_cell(name, figures.get(name)) for name in costs["seqpacket"]]
        lines.append("| " + " | ".join([titles[key], *cells]) + " |")
    head = [
        "transport",
        f"{BURST} frames of 4 packets: refused, lost silently",
        "of 64 packets",
        "stopped: µs a frame, longest, taken, lost silently",
        "killed: told, after frames",
        "others may send",
    ]
    lines += ["", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for key, one in wrong.items():
        small, large, still, dead = one["burst_4"], one["burst_64"], one["stopped"], one["killed"]
        cells = [
            f"{small['refused']}, {small['lost_silently']}",
            f"{large['refused']}, {large['lost_silently']}",
            ", ".join(f"{value:.0f}" for value in still.values()),
            f"{dead['told']}, {dead['after_frames']}",
            one["injected"],
        ]
        lines.append("| " + " | ".join([titles[key], *cells]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    queue = Path("/proc/sys/net/unix/max_dgram_qlen").read_text()
    kept: dict[str, Any] = {
        "machine": {
            "cores": os.cpu_count(),
            "kernel": ".".join(platform.release().split(".")[:2]),
            "max_dgram_qlen": int(queue),
        },
        "rounds": options.rounds,
        "costs": measure_costs(options.rounds),
        "wrong": {
            kind.key: {
                "burst_4": burst(kind, 4),
                "burst_64": burst(kind, 64),
                "stopped": stopped(kind),
                "killed": killed(kind),
                "injected": injected(kind),
            }
            for kind in TRANSPORTS
        },
    }
    print(answer(kept))
    options.results.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
