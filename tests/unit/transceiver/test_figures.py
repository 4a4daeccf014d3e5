"""Totals and histograms of a transceiver, and what an operator sees of one call."""

import asyncio
import ipaddress
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.transceiver.test_session import OPUS, THEIRS, Client, Host, host, ice_of
from voicerelay.transceiver import figures as module
from voicerelay.transceiver.figures import Figures, contract_of, masked, media, vitals
from voicerelay.transceiver.session import LiveSession
from voicerelay.transceiver.voice import lateness
from voicerelay.transceiver.voice.rtp import pack_rtp


async def connected(here: Host) -> tuple[LiveSession, Client]:
    """A call whose DTLS is up, as far as it can know."""
    session, client = await here.session(), here.client()
    client.check(session, nominate=True)
    session.media_started(OPUS, 1)
    return session, client


def hear(session: LiveSession, sequence: int, payload: bytes, now: float) -> None:
    """A decrypted packet."""
    assert session.voice is not None
    session.voice.receive(pack_rtp(False, OPUS, sequence, 960 * sequence, THEIRS, payload), now)


def counts(told: dict[str, Any], *keys: str) -> int:
    for key in keys:
        told = told[key]
    return sum(told["counts"])


def test_the_phases_of_a_set_up_count_once_each() -> None:
    async def run() -> None:
        async with host() as here:
            # given a call that is heard
            session, _ = await connected(here)
            hear(session, 1, b"voice", 1e9)
            seen = Figures()

            # when it is looked at twice, and ends
            seen.look(session)
            seen.look(session)
            session.end("for a test: with words of somebody's own")
            seen.left(session)

            # then
            told = seen.snapshot([], here.pacer)
            phases = {phase: counts(told, "setup_s", phase) for phase in told["setup_s"]}
            assert phases == {"answer": 1, "ice": 1, "dtls": 1, "media": 1, "total": 1}
            assert told["ended"] == {"for a test": 1}

    asyncio.run(run())


def test_a_round_trip_counts_each_time_that_is_looked() -> None:
    async def run() -> None:
        async with host() as here:
            session, _ = await connected(here)
            seen = Figures()
            seen.look(session)
            assert session.voice is not None
            session.voice.rtt_s = 0.06

            seen.look(session)
            seen.look(session)

            assert counts(seen.snapshot([], here.pacer), "rtt_s") == 2

    asyncio.run(run())


def test_totals_are_of_calls_that_go_on_and_of_those_that_have_ended() -> None:
    async def run() -> None:
        async with host() as here:
            # given two calls, one of which loses a packet, and ends
            seen = Figures()
            gone, stays = (await connected(here))[0], (await connected(here))[0]
            hear(gone, 1, b"voice", 0.0)
            hear(gone, 3, b"voice", 0.04)
            hear(stays, 1, b"more voice", 0.0)
            seen.left(gone)

            told = seen.snapshot([stays], here.pacer)["rtp"]

            assert (told["bytes_in"], told["lost_in"]) == (20, 1)
            assert media(stays).bytes_in == 10

    asyncio.run(run())


def test_what_an_operator_sees_of_a_call_names_nobody() -> None:
    async def run() -> None:
        async with host() as here:
            session, client = await connected(here)

            told = vitals(session, session.milestones.age_s(0) * -1 + 5)

            assert (told["state"], told["age_s"], told["client"]) == (
                "connected",
                5.0,
                "127.0.0.0/24",
            )
            text = json.dumps(told)
            port = client.sock.getsockname()[1]
            secrets = ice_of(session).credentials
            assert f":{port}" not in text
            assert "127.0.0.1" not in text
            assert secrets.password.decode() not in text
            assert secrets.ufrag.decode() not in text

    asyncio.run(run())


def test_a_call_that_has_only_been_answered_can_be_seen() -> None:
    async def run() -> None:
        async with host() as here:
            session = await here.session()

            told = vitals(session, 0.0)

            assert (told["state"], told["client"], told["codec"]) == ("checking", None, None)
            assert list(told["setup_ms"]) == ["answer"]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("path", "contract"),
    [
        ("/whip", "whip"),
        ("/whep", "whep"),
        ("/v1/realtime/calls", "openai-realtime"),
        ("/api/offer", "pipecat"),
        ("/sessions/x/api/offer", "pipecat"),
        ("/webrtc/offer", "fastrtc"),
        ("", "other"),
    ],
)
def test_a_contract_is_known_by_its_path(path: str, contract: str) -> None:
    assert contract_of(path) == contract


@given(st.ip_addresses())
def test_an_address_is_masked(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    found = ipaddress.ip_network(masked(str(address)))

    assert address in found
    bits = module.MASKED_V4_BITS if address.version == 4 else module.MASKED_V6_BITS
    assert found.prefixlen == bits


def test_the_lateness_of_frames_has_bounds_that_its_buckets_have() -> None:
    for bound in module.LATENESS_BOUNDS_S:
        assert bound / lateness.BUCKET_S == pytest.approx(round(bound / lateness.BUCKET_S))
    assert module.LATENESS_BOUNDS_S[-1] < lateness.BUCKETS * lateness.BUCKET_S
