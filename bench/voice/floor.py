"""What libopus and libsrtp alone take for 20 ms of a call: `python floor.py JSON`, one line of JSON.

A bare loop over the states of as many calls as the contenders hold, so that caches are no better off: for each
call unprotect, decode, encode (complexity 5, FEC) and protect, one after the other as a call needs them. The
parts are timed in loops of their own, where their code stays in the cache: together they are less. `paced_us`
is the same as `floor_us` with every call in its own time, as real packets come.
"""

import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pylibsrtp
from pylibsrtp import Policy, Session

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[0] = str(ROOT)

from bench.voice.said import RATE, looped, payloads
from voicerelay.transceiver.voice import opus, rtp

LOSS_PERCENT = 5
WARM_FRAMES = 10  # of each call, before it counts
SRTP_BUFFER_BYTES = 1600
MAX_PAYLOAD_BYTES = 1000
MAX_SAMPLES = 5760
SAMPLES = round(RATE * opus.FRAME_S)
_binding: Any = pylibsrtp
_srtp, _srtp_ffi = _binding.lib, _binding.ffi
_opus: Any = opus._lib
_opus_ffi: Any = opus._ffi


class State:
    """Of one call, both ends of it, and the buffers of a frame."""

    def __init__(self, index: int) -> None:
        self.encoder, self.decoder = opus.Encoder(RATE), opus.Decoder(RATE)
        self.encoder.set_fec(LOSS_PERCENT)
        keys = [secrets.token_bytes(30) for _ in range(2)]
        outbound, inbound = Policy.SSRC_ANY_OUTBOUND, Policy.SSRC_ANY_INBOUND
        self.theirs = Session(Policy(keys[0], outbound))
        self.rx = Session(Policy(keys[0], inbound))
        self.tx = Session(Policy(keys[1], outbound))
        self.offset = 37 * index
        self.coming = _srtp_ffi.new("char[]", SRTP_BUFFER_BYTES)
        self.going = _srtp_ffi.new("char[]", SRTP_BUFFER_BYTES)
        self.coming_length, self.going_length = _srtp_ffi.new("int *"), _srtp_ffi.new("int *")
        self.coded = _opus_ffi.new("unsigned char[]", MAX_PAYLOAD_BYTES)
        self.heard = _opus_ffi.new("int16_t[]", MAX_SAMPLES)
        self.number = 0
        self.payload = self.packet = self.secret = b""
        self.said: Any = None

    def next(self) -> None:
        """The next frame of both ends."""
        spoken = payloads()
        place = self.number + self.offset
        self.payload = spoken[place % len(spoken)]
        self.said = _opus_ffi.from_buffer("int16_t[]", looped(place * SAMPLES, SAMPLES).copy())
        self.packet = rtp.pack_rtp(
            False, 111, self.number & 0xFFFF, self.number * 960 & 0xFFFFFFFF, 1, self.payload
        )
        self.secret = self.theirs.protect(self.packet)
        for buffer, length, data in (
            (self.coming, self.coming_length, self.secret),
            (self.going, self.going_length, self.packet),
        ):
            buffer[0 : len(data)] = data
            length[0] = len(data)
        self.number += 1

    def unprotect(self) -> None:
        _srtp.srtp_unprotect(self.rx._srtp[0], self.coming, self.coming_length)

    def decode(self) -> None:
        payload = self.payload
        _opus.opus_decode(self.decoder._state, payload, len(payload), self.heard, MAX_SAMPLES, 0)

    def encode(self) -> None:
        _opus.opus_encode(self.encoder._state, self.said, SAMPLES, self.coded, MAX_PAYLOAD_BYTES)

    def protect(self) -> None:
        _srtp.srtp_protect(self.tx._srtp[0], self.going, self.going_length)

    def py_unprotect(self) -> None:
        self.rx.unprotect(self.secret)

    def py_protect(self) -> None:
        self.tx.protect(self.packet)

    def all(self) -> None:
        self.unprotect()
        self.decode()
        self.encode()
        self.protect()


PARTS: list[tuple[str, Callable[[State], None]]] = [
    ("floor_us", State.all),
    ("unprotect", State.unprotect),
    ("decode", State.decode),
    ("encode", State.encode),
    ("protect", State.protect),
    ("py_unprotect", State.py_unprotect),
    ("py_protect", State.py_protect),
]
ROUNDS = (
    ("floor_us",),
    ("unprotect", "decode", "encode", "protect"),
    ("py_unprotect", "py_protect"),
)


def run(calls: int, frames: int) -> dict[str, float]:
    """µs of CPU for each part, of a frame of a call; `frames` of each call."""
    states = [State(index) for index in range(calls)]
    parts = dict(PARTS)
    spent = dict.fromkeys(parts, 0.0)
    for number in range(frames * len(ROUNDS)):
        for state in states:
            state.next()
        for name in ROUNDS[number % len(ROUNDS)]:
            work = parts[name]
            began = time.thread_time()
            for state in states:
                work(state)
            spent[name] += time.thread_time() - began
    return {name: seconds / calls / frames * 1e6 for name, seconds in spent.items()}


def paced_us(calls: int, frames: int) -> float:
    """µs of CPU as `floor_us`, but each call in its own time: so cold are the caches of a real process."""
    states = [State(index) for index in range(calls)]
    spent, start = 0.0, time.monotonic()
    for number in range(frames):
        for index, state in enumerate(states):
            state.next()
            due = start + (number + index / calls) * opus.FRAME_S
            if (wait := due - time.monotonic()) > 0:
                time.sleep(wait)
            began = time.thread_time()
            state.all()
            spent += time.thread_time() - began
    return spent / calls / frames * 1e6


@contextlib.contextmanager
def neighbour(calls: int, cpu: int) -> Iterator[None]:
    """Meanwhile the other core does what the callers of so many calls do: it slows this one down."""
    pid = os.fork()
    if not pid:
        os.sched_setaffinity(0, {cpu})
        parent = os.getppid()
        state, step = State(0), opus.FRAME_S / calls
        with socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0] as end:
            due = time.monotonic()
            while os.getppid() == parent:
                state.next()
                with contextlib.suppress(OSError):
                    end.send(state.secret)
                due += step
                time.sleep(max(0.0, due - time.monotonic()))
        os._exit(0)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def floor_us(calls: int, frames: int) -> float:
    """µs of CPU of a frame of a call, all of it in one loop, and nothing else measured."""
    states, spent = [State(index) for index in range(calls)], 0.0
    for number in range(WARM_FRAMES + frames):
        for state in states:
            state.next()
        began = time.thread_time()
        for state in states:
            state.all()
        if number >= WARM_FRAMES:
            spent += time.thread_time() - began
    return spent / calls / frames * 1e6


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    os.sched_setaffinity(0, {settings["cpu"]})
    if settings["priority"]:
        os.setpriority(os.PRIO_PROCESS, 0, settings["priority"])
    calls, frames = settings["calls"], settings["frames"]
    with neighbour(calls, settings["others"]):
        if settings["brief"]:
            figures = {"floor_us": floor_us(calls, frames)}
        else:
            run(calls, WARM_FRAMES)
            figures = run(calls, frames)
            figures["paced_us"] = paced_us(calls, 2 * frames)
    print(json.dumps(figures))
