"""What libopus and libsrtp alone take for 20 ms of a call: `python floor.py JSON`, one line of JSON.

A bare loop over the states of as many calls as the contenders hold, so that caches are no better off: unprotect,
decode, encode (complexity 5, FEC), protect. libsrtp is called once without and once with pylibsrtp around it.
"""

import json
import os
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pylibsrtp
from pylibsrtp import Policy, Session

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[0] = str(ROOT)

from bench.voice.signal import RATE, looped, payloads
from voicerelay.transceiver import opus, rtp

REPORTED_LOSS_PERCENT = 5
_srtp: Any = pylibsrtp.lib
_srtp_ffi: Any = pylibsrtp.ffi
_opus: Any = opus._lib
_opus_ffi: Any = opus._ffi
SRTP_BUFFER_BYTES = 1500


class State:
    """Of one call."""

    def __init__(self, index: int) -> None:
        self.encoder, self.decoder = opus.Encoder(RATE), opus.Decoder(RATE)
        self.encoder.set_fec(REPORTED_LOSS_PERCENT)
        keys = [secrets.token_bytes(30) for _ in range(2)]
        outbound, inbound = Policy.SSRC_ANY_OUTBOUND, Policy.SSRC_ANY_INBOUND
        self.theirs = Session(Policy(keys[0], outbound))
        self.rx = Session(Policy(keys[0], inbound))
        self.tx = Session(Policy(keys[1], outbound))
        self.offset = 37 * index
        self.buffer = _srtp_ffi.new("char[]", SRTP_BUFFER_BYTES)
        self.length = _srtp_ffi.new("int *")
        self.out = _opus_ffi.new("unsigned char[]", 1000)
        self.pcm = _opus_ffi.new("int16_t[]", 5760)

    def packet(self, number: int, payload: bytes) -> bytes:
        header = rtp.RtpPacket(False, 111, number & 0xFFFF, number * 960 & 0xFFFFFFFF, 1, payload)
        return rtp.build_rtp(header)


def run(calls: int, frames: int) -> dict[str, float]:
    """µs of CPU for each part, of a frame of a call; `frames` of each call."""
    states = [State(index) for index in range(calls)]
    spoken = payloads()
    samples = states[0].encoder.samples
    spent = dict.fromkeys(
        ("decode", "encode", "unprotect", "protect", "py_unprotect", "py_protect"), 0.0
    )

    def timed(name: str, work: Callable[[], None]) -> None:
        began = time.thread_time()
        work()
        spent[name] += time.thread_time() - began

    sizes = [0] * calls
    for number in range(frames):
        sent = [spoken[(number + s.offset) % len(spoken)] for s in states]
        both = [
            [
                s.theirs.protect(s.packet(2 * number + n, p))
                for s, p in zip(states, sent, strict=True)
            ]
            for n in (0, 1)
        ]
        pcm = [
            _opus_ffi.from_buffer(
                "int16_t[]", looped((number + s.offset) * samples, samples).copy()
            )
            for s in states
        ]
        for state, packet in zip(states, both[0], strict=True):
            state.buffer[0 : len(packet)] = packet
            state.length[0] = len(packet)

        def unprotect() -> None:
            for s in states:
                _srtp.srtp_unprotect(s.rx._srtp[0], s.buffer, s.length)

        def py_unprotect(secret: list[bytes] = both[1]) -> None:
            for s, packet in zip(states, secret, strict=True):
                s.rx.unprotect(packet)

        def decode(payloads: list[bytes] = sent) -> None:
            for s, payload in zip(states, payloads, strict=True):
                _opus.opus_decode(s.decoder._state, payload, len(payload), s.pcm, 5760, 0)

        def encode(frames: list[Any] = pcm) -> None:
            for i, (s, frame) in enumerate(zip(states, frames, strict=True)):
                sizes[i] = _opus.opus_encode(s.encoder._state, frame, samples, s.out, 1000)

        timed("unprotect", unprotect)
        timed("py_unprotect", py_unprotect)
        timed("decode", decode)
        timed("encode", encode)
        plain = [
            [
                s.packet(2 * number + n, bytes(_opus_ffi.buffer(s.out, size)))
                for s, size in zip(states, sizes, strict=True)
            ]
            for n in (0, 1)
        ]
        for state, packet in zip(states, plain[0], strict=True):
            state.buffer[0 : len(packet)] = packet
            state.length[0] = len(packet)

        def protect() -> None:
            for s in states:
                _srtp.srtp_protect(s.tx._srtp[0], s.buffer, s.length)

        def py_protect(open_: list[bytes] = plain[1]) -> None:
            for s, packet in zip(states, open_, strict=True):
                s.tx.protect(packet)

        timed("protect", protect)
        timed("py_protect", py_protect)
    each = {name: seconds / calls / frames * 1e6 for name, seconds in spent.items()}
    each["floor_us"] = sum(each[name] for name in ("decode", "encode", "unprotect", "protect"))
    each["bytes"] = sum(sizes) / calls
    return each


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    os.sched_setaffinity(0, {settings["cpu"]})
    if settings["priority"]:
        os.setpriority(os.PRIO_PROCESS, 0, settings["priority"])
    run(settings["calls"], 10)
    print(json.dumps(run(settings["calls"], settings["frames"])))
