"""A call and its agent: what it hears and says, how a call ends, and what is left of it then: nothing."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from tests.support.voices import clean, numbered, speech
from tests.unit.transceiver.signalling.test_offer import CHROMIUM
from tests.unit.transceiver.test_channels import FakeChannel
from tests.unit.transceiver.test_session import (
    OPUS,
    OURS,
    THEIRS,
    WAIT_S,
    Client,
    Counter,
    decrypt,
    host,
    listen,
    talking,
    until,
    voice,
)
from voicerelay.shm.ufrag import make_ufrag
from voicerelay.transceiver.agent import AudioPacket, Session, SessionClosed
from voicerelay.transceiver.negotiate import NotAcceptable
from voicerelay.transceiver.session import (
    FOLLOWING,
    MAX_EARLY_PACKETS,
    LiveSession,
    State,
)
from voicerelay.transceiver.signalling.offer import check_offer
from voicerelay.transceiver.voice.hearing import MAX_UNREAD_PACKETS
from voicerelay.transceiver.voice.opus import Decoder, Pcm
from voicerelay.transceiver.voice.rtp import build_report, build_rtp, parse_rtp

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


# ---- PCM -----------------------------------------------------------------------------------------


def spoken(number: int) -> bytes:
    """RTP with real Opus."""
    return build_rtp(numbered(number))


def voices(client: Client) -> list[bytes]:
    """The Opus that has come to a client."""
    return [parse_rtp(data).payload for data in client.received() if data[0] == 0x80]


async def ended(session: LiveSession) -> str:
    async with asyncio.timeout(WAIT_S):
        await session.ended.wait()
    return session.end_reason


def test_pcm_is_heard_as_it_was_said_and_said_as_it_was_played(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[Pcm] = []

    async def hear_and_say(session: Session) -> None:
        async for frame in session.listen(rate=16_000):
            heard.append(frame)
            if len(heard) == 10:
                break
        await session.play(speech(0.1, 24_000))
        await session.drain()

    async def run() -> None:
        async with host() as here:
            session, client = await talking(here, monkeypatch, hear_and_say)
            for number in range(10):
                client.send(spoken(number))

            assert await ended(session) == "the agent has finished"
            assert all(np.array_equal(*pair) for pair in zip(heard, clean()[:10], strict=True))
            decoder = Decoder(24_000)
            assert [len(decoder.decode(payload)) for payload in voices(client)] == [480] * 5
            assert len(here.pacer) == 0

    asyncio.run(run())


def test_an_agent_can_hear_itself_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[int] = []

    async def talk(session: Session) -> None:
        playing = asyncio.create_task(session.play(speech(5, 24_000)))
        async for message in session.messages():
            said.append(session.interrupt())
            await playing
            session.send_message(f"{message.data!r}: {said[0]}", message.channel)

    async def run() -> None:
        async with host() as here:
            session, client = await talking(here, monkeypatch, talk)
            channel = FakeChannel("chat")
            assert session.channel_opened(channel)
            await until(lambda: session.stats().frames_played >= 3)

            session.message_received("chat", "stop")
            await until(lambda: bool(channel.sent))

            assert said[0] == session.stats().frames_played * 20
            assert len(voices(client)) == session.stats().frames_played
            assert channel.sent == [f"'stop': {said[0]}"]

    asyncio.run(run())


# ---- faults of agents ----------------------------------------------------------------------------


async def raise_it(_: Session) -> None:
    raise LookupError("a mistake of the user")


async def exit_it(_: Session) -> None:
    raise SystemExit(3)


async def fail_in_a_group(session: Session) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(listen(session))
        group.create_task(raise_it(session))


async def be_no_coroutine(session: Session) -> None:
    await None  # type: ignore[misc]


@pytest.mark.parametrize("agent", [raise_it, exit_it, fail_in_a_group, be_no_coroutine])
def test_a_failing_agent_ends_its_call_alone_and_says_so_once(
    agent: Callable[[Session], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run() -> None:
        async with host() as here:
            # given another call of the same process
            other, _ = await talking(here, monkeypatch, listen)

            session, _ = await talking(here, monkeypatch, agent)
            assert await ended(session) == "the agent failed"

            errors = [r for r in caplog.records if r.levelno >= logging.WARNING]
            assert [r.getMessage() for r in errors] == [
                f"session {session.short_id}: the agent failed"
            ]
            assert errors[0].exc_info
            assert other.state is State.CONNECTED

    asyncio.run(run())


def test_an_agent_that_is_cancelled_from_within_ends_its_call(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def cancel_itself(session: Session) -> None:
        waiting = asyncio.get_running_loop().create_future()
        waiting.cancel()
        await waiting

    async def run() -> None:
        async with host() as here:
            session, _ = await talking(here, monkeypatch, cancel_itself)
            assert await ended(session) == "the agent was cancelled"

    caplog.set_level(logging.INFO)
    asyncio.run(run())
    assert sum("the agent was cancelled" in line for line in caplog.messages) == 1


async def play_for_ever(session: Session) -> None:
    while True:
        await session.play(bytes(48_000))


async def play_in_a_group(session: Session) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(play_for_ever(session))
        group.create_task(listen(session))


async def play_after_the_end(session: Session) -> None:
    try:
        await listen(session)
    finally:
        await session.play(b"")


@pytest.mark.parametrize("agent", [play_for_ever, play_in_a_group, play_after_the_end])
def test_a_call_that_ends_under_its_agent_is_no_fault(
    agent: Callable[[Session], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run() -> None:
        async with host() as here:
            session, _ = await talking(here, monkeypatch, agent)
            await asyncio.sleep(0)

            session.end("the client hung up")
            await ended(session)

            assert not [r for r in caplog.records if r.levelno >= logging.WARNING]

    asyncio.run(run())


def test_playing_after_close_raises_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[BaseException] = []

    async def close(session: Session) -> None:
        session.close()
        try:
            await session.play(bytes(960))
        except SessionClosed as exc:
            raised.append(exc)

    async def run() -> None:
        async with host() as here:
            session, _ = await talking(here, monkeypatch, close)
            assert await ended(session) == "closed by the agent"
            assert len(raised) == 1

    asyncio.run(run())


def test_an_agent_that_does_not_end_is_named_and_the_call_ends_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("voicerelay.transceiver.session.AGENT_GRACE_S", 0.0)

    async def run() -> None:
        awake = asyncio.Event()

        async def stubborn(session: Session) -> None:
            while not awake.is_set():
                try:
                    await awake.wait()
                except asyncio.CancelledError:
                    continue

        async with host() as here:
            session, _ = await talking(here, monkeypatch, stubborn)
            await asyncio.sleep(0)
            session.end("gone")
            await ended(session)

            assert "its agent goes on after its end" in caplog.text
            awake.set()
            assert session._agent_task is not None
            await session._agent_task

    asyncio.run(run())


# ---- what is left --------------------------------------------------------------------------------


def left(session: LiveSession) -> tuple[int, int, int, int]:
    """Turns and timers of the pacer, timers of a gap, tasks that wait for room."""
    speaking, hearing = session._speaking, session._hearing
    pacer = speaking._pacer
    return (
        len(pacer),
        int(pacer._timer is not None),
        int(hearing._timer is not None),
        len(speaking._waiters),
    )


def test_of_an_ended_call_no_task_no_timer_and_no_turn_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def busy(session: Session) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(play_for_ever(session))
            for reader in (session.listen(), session.packets(), session.speech()):
                group.create_task(_read(reader))
            group.create_task(_read(session.messages()))

    async def _read(reader: object) -> None:
        async for _ in reader:  # type: ignore[attr-defined]
            pass

    async def run() -> None:
        async with host() as here:
            before = asyncio.all_tasks()

            # given calls that do everything at once, with a gap that is waited for
            for _ in range(3):
                session, client = await talking(here, monkeypatch, busy)
                await until(lambda s=session: len(s._speaking._waiters) == 1)  # type: ignore[misc]
                for number in (0, 1, 3):
                    client.send(spoken(number))
                assert left(session) == (1, 1, 1, 1)

                session.end("gone")
                await ended(session)

                # then nothing of it is left
                assert left(session) == (0, 0, 0, 0)
                await until(lambda: asyncio.all_tasks() <= before)

    asyncio.run(run())


# ---- life ----------------------------------------------------------------------------------------


def test_a_session_goes_back_for_a_new_peer_connection_only() -> None:
    order = list(State)

    back = {
        (s, after) for s in State for after in FOLLOWING[s] if order.index(after) <= order.index(s)
    }
    # A client's new peer connection (Pipecat's restart_pc) is checked like the first.
    assert back == {(State.CONNECTED, State.CHECKING), (State.CHECKING, State.CHECKING)}
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
