"""A call and its agent: what it hears and says, how a call ends, and what is left of it then: nothing."""

import asyncio
import json

import pytest

from tests.unit.transceiver.test_offer import CHROMIUM
from tests.unit.transceiver.test_session import (
    OPUS,
    OURS,
    THEIRS,
    WAIT_S,
    Counter,
    decrypt,
    host,
    listen,
    talking,
    until,
    voice,
)
from voicerelay.shm.ufrag import make_ufrag
from voicerelay.transceiver.agent import AudioPacket, Session
from voicerelay.transceiver.hearing import MAX_UNREAD_PACKETS
from voicerelay.transceiver.negotiate import NotAcceptable
from voicerelay.transceiver.offer import check_offer
from voicerelay.transceiver.rtp import build_report, parse_rtp
from voicerelay.transceiver.session import (
    FOLLOWING,
    MAX_EARLY_PACKETS,
    State,
)

# ---- the agent -----------------------------------------------------------------------------------


def test_an_echo_comes_back_to_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    async def echo(session: Session) -> None:
        async for packet in session.packets():
            session.send(packet)

    async def run() -> None:
        async with host() as here:
            _, client = await talking(here, monkeypatch, echo)
            client.received()
            for number in (7, 8, 10):
                client.send(voice(number))

            found: list[bytes] = []

            def all_are_back() -> bool:
                found.extend(data for data in client.received() if data[0] == 0x80)
                return len(found) == 3

            await until(all_are_back)
            packets = [parse_rtp(data) for data in found]
            assert [packet.payload for packet in packets] == [b"opus7", b"opus8", b"opus10"]
            assert {packet.ssrc for packet in packets} == {OURS}
            assert (packets[2].sequence - packets[0].sequence) & 0xFFFF == 3

    asyncio.run(run())


def test_media_that_overtakes_its_keys_waits_for_them_in_bounded_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[int] = []

    async def hear(session: Session) -> None:
        async for packet in session.packets():
            heard.extend((packet.sequence,))

    async def run() -> None:
        async with host() as here:
            # given media while DTLS is still at work, one packet of it junk
            session, client = await here.session(hear), here.client()
            client.check(session)
            client.send(b"\x9f" + voice(1)[1:])
            for number in range(MAX_EARLY_PACKETS + 3):
                client.send(voice(number))
            assert here.dropped() == {Counter.DROPPED_QUEUE_FULL: 4}

            # when the keys are there
            decrypt(monkeypatch)
            session.media_started(OPUS, OURS)

            # then what waited is heard in order, and every packet is counted once
            await until(lambda: len(heard) == MAX_EARLY_PACKETS - 1)
            assert heard == list(range(MAX_EARLY_PACKETS - 1))
            assert here.dropped() == {Counter.DROPPED_QUEUE_FULL: 4, Counter.DROPPED_SRTP: 1}
            assert here.balance() == (MAX_EARLY_PACKETS + 5,) * 2

    asyncio.run(run())


def test_a_slow_agent_loses_the_oldest_packets_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[AudioPacket] = []

    async def run() -> None:
        awake = asyncio.Event()

        async def slow(session: Session) -> None:
            await awake.wait()
            async for packet in session.packets():
                heard.extend((packet,))

        async with host() as here:
            session, client = await talking(here, monkeypatch, slow)
            for number in range(MAX_UNREAD_PACKETS + 10):
                client.send(voice(number))

            awake.set()
            await until(lambda: len(heard) == MAX_UNREAD_PACKETS)

            assert [packet.sequence for packet in heard] == list(range(10, 10 + MAX_UNREAD_PACKETS))
            assert session.stats().unread_ms == 10 * 20

    asyncio.run(run())


def test_the_call_ends_with_its_agent_whatever_way_it_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def finish(session: Session) -> None: ...

    async def fail(session: Session) -> None:
        raise RuntimeError("a mistake of the user")

    async def close(session: Session) -> None:
        session.close()
        await listen(session)

    async def run() -> None:
        async with host() as here:
            reasons = []
            for agent in (finish, fail, close):
                session, _ = await talking(here, monkeypatch, agent)
                async with asyncio.timeout(WAIT_S):
                    await session.ended.wait()
                reasons.append(session.end_reason)

            said = ["the agent has finished", "the agent failed", "closed by the agent"]
            assert reasons == said
            assert not here.directory.routes
            assert not here.directory.flows
            assert not here.mux.by_ufrag
            assert not here.mux.by_path

    asyncio.run(run())


def test_junk_media_is_dropped_and_the_call_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with host() as here:
            session, client = await talking(here, monkeypatch, listen)

            client.send(b"\x9f" + voice(1)[1:])  # CSRCs that are not there
            client.send(b"\x80\xc9\x00\x63" + bytes(20))  # RTCP longer than its datagram
            client.send(build_report(THEIRS, "c", None, []))
            client.send(voice(2))

            assert here.dropped() == {Counter.DROPPED_SRTP: 2}
            assert (session.state, session.packets_in) == (State.CONNECTED, 1)
            assert here.balance() == (5, 5)

    asyncio.run(run())


def test_what_is_told_of_a_session_has_no_address_and_no_key() -> None:
    async def run() -> None:
        async with host() as here:
            session, client = await here.session(), here.client()
            client.check(session, nominate=True)

            told = json.dumps(session.describe())

            assert session.describe()["ice"] == "completed"
            for secret in (session.ufrag, session.password, session.etag, "127.0.0.1"):
                assert secret not in told

    asyncio.run(run())


# ---- life ----------------------------------------------------------------------------------------


def test_a_session_only_goes_forward() -> None:
    order = list(State)

    assert all(order.index(after) > order.index(s) for s in State for after in FOLLOWING[s])
    assert all(State.CLOSED in FOLLOWING[state] for state in order[:-1])


def test_a_session_ends_once_and_says_the_first_reason() -> None:
    async def run() -> None:
        async with host() as here:
            session, client = await here.session(), here.client()
            client.check(session)

            session.end("first")
            session.end("second")
            client.check(session)
            await session.ended.wait()

            assert session.end_reason == "first"
            assert session.state is State.CLOSED
            assert (here.directory.routes, here.directory.flows) == ({}, {})

    asyncio.run(run())


def test_a_flow_that_is_written_after_the_end_is_given_back() -> None:
    async def run() -> None:
        async with host() as here:
            session, client = await here.session(), here.client()
            here.directory.holding = True
            client.check(session)

            session.end("gone")
            await session.ended.wait()
            here.directory.answer_all()

            assert (here.directory.flows, here.mux.by_path, client.replies()) == ({}, {}, 0)

    asyncio.run(run())


def test_an_offer_that_cannot_be_answered_leaves_no_route() -> None:
    async def run() -> None:
        async with host() as here:
            offer = check_offer(CHROMIUM.replace("a=rtcp-mux\r\n", ""))
            session = here.unopened("id", 1, listen)

            with pytest.raises(NotAcceptable):
                await session.open(offer, make_ufrag(b"k" * 32, 0, 0))

            assert (here.directory.routes, here.mux.by_ufrag) == ({}, {})

    asyncio.run(run())


def test_a_session_that_is_ended_while_it_is_opened_leaves_nothing_behind() -> None:
    async def run() -> None:
        async with host() as here:
            # given an offer that waits for control, as a stop of the server finds it
            here.directory.go_on.clear()
            session = here.unopened("id", 1, listen)
            opening = asyncio.ensure_future(
                session.open(check_offer(CHROMIUM), make_ufrag(b"k" * 32, 0, 0))
            )
            await asyncio.sleep(0)

            # when it is ended, and control answers
            session.end("the server is stopping")
            await session.ended.wait()
            here.directory.go_on.set()
            await asyncio.wait([opening])

            # then opening has failed, and neither route nor peer connection is left
            assert opening.exception() is not None
            assert (here.directory.routes, here.mux.by_ufrag) == ({}, {})

    asyncio.run(run())
