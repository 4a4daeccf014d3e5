"""Strangers, spoofers and reused addresses against the sessions of a transceiver, in numbers and at random."""

import asyncio
import random
from collections import Counter as Tally

import pytest

from tests.unit.transceiver.test_session import (
    HANDSHAKE,
    Host,
    decrypt,
    host,
    ice_of,
    voice,
)
from voicerelay.shm import stun
from voicerelay.shm.counters import TransceiverCounter as Counter
from voicerelay.shm.path import pack_path
from voicerelay.transceiver.agent import Session
from voicerelay.transceiver.session import LiveSession

SEED = 20261125
BAD_CHECKS = 20_000  # 100,000: bench/attacks.py
STEPS = 400


def username(session: LiveSession) -> tuple[int, bytes]:
    remote = ice_of(session).credentials.remote_ufrag
    return stun.USERNAME, session.ufrag.encode() + b":" + remote


def bad_checks(session: LiveSession) -> list[bytes]:
    """Every way of not knowing the password of a session whose ufrag is known."""
    name, nominate = username(session), (stun.USE_CANDIDATE, b"")
    signed = stun.build(stun.BINDING_REQUEST, bytes(12), [name, nominate], b"a guess")
    good = stun.build(stun.BINDING_REQUEST, bytes(12), [name], session.password.encode())
    return [
        stun.build(stun.BINDING_REQUEST, bytes(12), [name, nominate]),
        stun.build(stun.BINDING_REQUEST, bytes(12), [name], with_fingerprint=False),
        stun.build(stun.BINDING_REQUEST, bytes(12), [name, (stun.MESSAGE_INTEGRITY, bytes(20))]),
        signed,
        good[:-1] + bytes([good[-1] ^ 1]),  # the fingerprint
        good[:30] + bytes([good[30] ^ 1]) + good[31:],
        good[:-8],  # cut
        good + b"\x00\x01\x00\x00",  # and prolonged
    ]


def test_bad_checks_write_nothing_and_are_not_answered() -> None:
    async def run() -> None:
        async with host() as here:
            # given a call at its address
            session, client = await here.session(), here.client()
            client.check(session, nominate=True)
            assert client.replies() == 1
            flows, paths = dict(here.directory.flows), dict(here.mux.by_path)
            sent = here.block.get(Counter.PACKETS_SENT)
            variants = bad_checks(session)
            ports = range(1024, 1024 + BAD_CHECKS // len(variants) // 4)

            # when strangers, and somebody with that very address, guess
            elsewhere = [pack_path(0, f"192.0.2.{n}", port) for n in range(3) for port in ports]
            for path in (*elsewhere, *[client.path] * len(ports)):
                for data in variants:
                    here.mux.dispatch(data, path, 0)

            # then nothing has changed, and nobody was answered
            assert (here.directory.flows, here.mux.by_path) == (flows, paths)
            assert client.received() == []
            assert here.block.get(Counter.SEND_FAILURES) == 0
            assert here.block.get(Counter.PACKETS_SENT) == sent
            assert sum(here.dropped().values()) == here.block.get(Counter.PACKETS_RECEIVED) - 1

    asyncio.run(run())


SHAPES: dict[str, list[tuple[int, bytes]]] = {
    "smallest": [],
    "nomination": [(stun.USE_CANDIDATE, b"")],
    "browser": [(stun.PRIORITY, bytes(4)), (stun.ICE_CONTROLLING, bytes(8))],
    "role conflict": [(stun.PRIORITY, bytes(4)), (stun.ICE_CONTROLLED, bytes(8))],
    "one unknown": [(0x7FFF, b"")],
    "many unknown": [(kind, b"") for kind in range(0x4000, 0x4080)],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_an_answer_is_no_longer_than_the_check(shape: str) -> None:
    """So a spoofed address gets no more from us than it would from who spoofs it."""

    async def run() -> None:
        async with host() as here:
            session, client = await here.session(), here.client()
            attributes = [username(session), *SHAPES[shape]]
            key = session.password.encode()
            check = stun.build(stun.BINDING_REQUEST, b"t" * 12, attributes, key)

            client.send(check)

            answers = [data for data in client.received() if data[0] < 4]  # DTLS is for who answers
            assert len(answers) == 1
            assert sum(map(len, answers)) <= len(check)

    asyncio.run(run())


@pytest.mark.parametrize("validated", [False, True])
def test_a_flood_of_hellos_gets_less_back_than_it_brings(validated: bool) -> None:
    async def run() -> None:
        async with host() as here:
            session, client = await here.session(), here.client()
            if validated:
                client.check(session, nominate=True)
                client.received()
            rng, sent = random.Random(SEED), 0
            for _ in range(500):
                hello = HANDSHAKE[:-8] + rng.randbytes(8)
                sent += len(hello)
                client.send(hello)

            got = sum(map(len, client.received()))
            assert got <= sent * validated
            assert here.balance()[0] == here.balance()[1]

    asyncio.run(run())


class Reused:
    """Three calls whose clients get each other's addresses; who holds which is `holder`."""

    def __init__(self, here: Host) -> None:
        self.here = here
        self.sessions: list[LiveSession] = []
        self.heard: list[Tally[int]] = []
        self.holder: dict[int, int] = {}  # of an address, by its latest authenticated check

    async def call(self, number: int) -> None:
        heard: Tally[int] = Tally()

        async def agent(session: Session) -> None:
            async for packet in session.packets():
                heard[int(packet.payload[-1])] += 1

        session = await self.here.session(agent)
        self.sessions.append(session)
        self.heard.append(heard)


@pytest.mark.parametrize("seed", range(SEED, SEED + 4))
def test_no_packet_crosses_over_when_addresses_are_reused_at_random(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Without SRTP, which would refuse them all the same: it is the routing that is tried."""

    async def run() -> None:
        rng = random.Random(seed)
        async with host() as here:
            decrypt(monkeypatch)
            world = Reused(here)
            for number in range(3):
                await world.call(number)
                home = here.client()
                home.check(world.sessions[number], nominate=True)
                world.sessions[number].media_started(111, 77 + number)
            addresses = [here.client() for _ in range(3)]
            expected: Tally[tuple[int, int]] = Tally()

            # when checks, forged checks and media come from three addresses in any order
            for step in range(STEPS):
                address, caller = rng.randrange(3), rng.randrange(3)
                what = rng.choice(("check", "nominate", "forge", "media", "media"))
                if what in ("check", "nominate"):
                    addresses[address].check(world.sessions[caller], what == "nominate")
                    world.holder[address] = caller
                elif what == "forge":
                    addresses[address].check(world.sessions[caller], True, "guessed")
                elif (holder := world.holder.get(address)) is not None:
                    # Only who holds the address can send from it.
                    addresses[address].send(numbered(step, holder))
                    expected[holder, holder] += 1
                await asyncio.sleep(0)
            for _ in range(20):
                await asyncio.sleep(0)

            # then each call has heard its own client alone, and all of him
            heard = {(n, who): c for n, told in enumerate(world.heard) for who, c in told.items()}
            assert heard == expected, f"seed {seed}"

    asyncio.run(run())


def numbered(step: int, caller: int) -> bytes:
    """Media of a caller, its payload ends with his number."""
    return voice(step)[:-1] + bytes([caller])
