"""Waiting for more packets within a wake-up: what it adds to a frame, and that it ends."""

import asyncio
import socket
from pathlib import Path

from tests.unit.relay.test_loop import BOTH, CHECK, RELAY, RTP, Relay
from voicerelay.relay.loop import MAX_DRAIN, MAX_LOOKS
from voicerelay.relay.pace import Pace
from voicerelay.shm.frame import split_frame


class AlwaysWaits(Pace):
    """A pace that always hopes for more."""

    def worth_waiting(self, drained: int, now: float) -> bool:
        return True


def test_what_comes_during_a_wait_is_forwarded_after_it_and_a_wakeup_has_an_end(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        with Relay(tmp_path) as relay:
            # given a relay that waits after each look, while a client goes on talking
            waits: list[float] = []

            def talk(seconds: float) -> None:
                waits.append(seconds)
                if len(waits) <= 3:
                    relay.client.send(RTP + bytes((len(waits),)))

            relay.forwarder = relay.in_python(AlwaysWaits(0.001), talk)
            relay.hold_alone()
            relay.client.send(RTP)
            await relay.received(4)

            # then the first one did not wait, each later one had its frame, and the loop goes on
            frames = [[data for _, _, data in split_frame(frame)] for frame in relay.frames()]
            assert frames == [[RTP], *([RTP + bytes((n,))] for n in (1, 2, 3))]
            assert waits == [0.001] * MAX_LOOKS

    asyncio.run(run())


def test_a_full_look_is_followed_by_the_next_without_a_wait(tmp_path: Path) -> None:
    async def run() -> None:
        with Relay(tmp_path) as relay:
            waits: list[int] = []
            relay.forwarder = relay.in_python(
                AlwaysWaits(0.001), lambda wait: waits.append(int(wait * 1e6))
            )
            relay.hold_alone()
            for _ in range(2 * MAX_DRAIN + 1):
                relay.client.send(RTP)

            await relay.received(2 * MAX_DRAIN + 1)

            # the two full looks were not followed by a wait
            assert len(waits) == MAX_LOOKS - 2

    asyncio.run(run())


@BOTH
def test_an_adopted_socket_is_read_in_the_same_look_and_keeps_its_number(
    tmp_path: Path, compiled: bool
) -> None:
    async def run() -> None:
        with (
            Relay(tmp_path, compiled=compiled) as relay,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
        ):
            # given a relay that reads a dead sibling's socket too
            other.bind(("127.0.0.1", 0))
            relay.forwarder.hold(RELAY + 1, [other.dup()])
            assert relay.forwarder.holding == [RELAY, RELAY + 1]

            # when a client has packets waiting at both
            relay.client.send(RTP)
            relay.client.connect(other.getsockname())
            relay.client.send(CHECK)
            await relay.received(2)

            # then each says where it came in
            assert [entry for frame in relay.frames() for entry in split_frame(frame)] == [
                (RELAY, relay.path, RTP),
                (RELAY + 1, relay.path, CHECK),
            ]

    asyncio.run(run())
