"""The caller's ICE agent against the server's, in virtual time: checks, nomination, consent, strangers."""

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from voicerelay.cli.loadtest.ice import (
    CONSENT_EXPIRY_S,
    CONSENT_S,
    FIRST_RTO_S,
    MAX_TRANSACTIONS,
    PACE_S,
    IceClient,
    IceState,
)
from voicerelay.cli.loadtest.sdp import Address, Answer
from voicerelay.shm import stun
from voicerelay.shm.path import pack_path
from voicerelay.transceiver.ice import Check, Credentials, IceAgent

SERVER, ELSEWHERE = Address("127.0.0.1", 3478), Address("127.0.0.9", 3478)
CLIENT_PATH = pack_path(0, "127.0.0.2", 5000)
PASSWORD = "p" * 22


def client(*candidates: Address, now: float = 0.0) -> IceClient:
    answer = Answer("theirs", "q" * 22, (("sha-256", "AB"),), True, candidates or (SERVER,), 111)
    return IceClient("ours", PASSWORD, answer, now, random.Random(1))


def server() -> IceAgent:
    return IceAgent(Credentials(b"theirs", b"q" * 22, b"ours"))


def exchange(caller: IceClient, agent: IceAgent, now: float) -> list[Check]:
    """All that the caller has to say at `now`, and the server's replies to it."""
    checks = []
    for data, to in caller.due(now):
        check = agent.receive(data, CLIENT_PATH, now)
        assert isinstance(check, Check)
        agent.accept(check, now)
        caller.receive(check.reply, to, now)
        checks.append(check)
    return checks


def state(caller: IceClient) -> IceState:
    return caller.state


def completed(now: float = 0.0) -> tuple[IceClient, IceAgent]:
    caller, agent = client(now=now), server()
    exchange(caller, agent, now)
    exchange(caller, agent, now)
    return caller, agent


def test_it_checks_then_nominates() -> None:
    caller, agent = client(), server()

    (first,) = exchange(caller, agent, 0.0)
    assert (state(caller), caller.selected, first.nominate) == (IceState.NOMINATING, SERVER, False)
    (second,) = exchange(caller, agent, 0.01)

    assert second.nominate
    assert state(caller) is IceState.COMPLETED
    assert agent.state.value == "completed"


def test_what_is_not_answered_is_repeated_more_and_more_slowly() -> None:
    caller = client()
    times = []
    now = 0.0
    while now < 4:
        if caller.due(now):
            times.append(now)
        now = caller.deadline

    steps = [round(b - a, 3) for a, b in itertools.pairwise(times)]
    assert steps[:4] == [FIRST_RTO_S, 2 * FIRST_RTO_S, 4 * FIRST_RTO_S, 8 * FIRST_RTO_S]


def test_candidates_are_checked_one_after_the_other_and_the_one_that_answers_is_taken() -> None:
    caller, agent = client(ELSEWHERE, SERVER), server()

    assert [to for _, to in caller.due(0.0)] == [ELSEWHERE]
    ((data, to),) = caller.due(PACE_S)
    check = agent.receive(data, CLIENT_PATH, PACE_S)
    assert isinstance(check, Check)
    caller.receive(check.reply, to, PACE_S)

    assert caller.selected == SERVER
    assert [to for _, to in caller.due(PACE_S)] == [SERVER]


def test_consent_is_asked_for_every_few_seconds_without_nominating() -> None:
    caller, agent = completed()
    times: list[float] = []
    while len(times) < 20:
        now = caller.deadline
        checks = exchange(caller, agent, now)
        assert [check.nominate for check in checks] == [False]
        times.append(now)

    steps = [b - a for a, b in itertools.pairwise(times)]
    assert all(0.8 * CONSENT_S <= step <= 1.2 * CONSENT_S for step in steps)
    assert state(caller) is IceState.COMPLETED


def test_consent_expires() -> None:
    caller, _ = completed()

    caller.due(CONSENT_EXPIRY_S)
    assert state(caller) is IceState.COMPLETED
    caller.due(CONSENT_EXPIRY_S + 0.01)

    assert state(caller) is IceState.EXPIRED
    assert caller.due(CONSENT_EXPIRY_S + 10) == []


def test_it_knows_since_when_its_checks_have_no_answer() -> None:
    caller, agent = completed()
    known = [caller.unanswered_since]

    asked_at = caller.deadline
    caller.due(asked_at)
    caller.due(caller.deadline)
    known.append(caller.unanswered_since)
    exchange(caller, agent, caller.deadline)
    known.append(caller.unanswered_since)

    assert known == [None, asked_at, None]


def test_a_success_that_is_not_authentic_or_was_not_asked_for_changes_nothing() -> None:
    caller = client()
    ((data, _),) = caller.due(0.0)
    transaction = data[8:20]

    caller.receive(stun.build(stun.BINDING_SUCCESS, transaction, [], b"wrong"), SERVER, 0.0)
    caller.receive(stun.build(stun.BINDING_SUCCESS, transaction, []), SERVER, 0.0)
    caller.receive(stun.build(stun.BINDING_SUCCESS, bytes(12), [], b"q" * 22), SERVER, 0.0)

    assert state(caller) is IceState.CHECKING


def test_it_answers_a_full_agents_checks() -> None:
    caller = client()
    request = stun.build(
        stun.BINDING_REQUEST, bytes(12), [(stun.USERNAME, b"ours:theirs")], PASSWORD.encode()
    )

    reply = caller.receive(request, SERVER, 0.0)

    assert reply is not None
    message = stun.parse(reply)
    assert message.kind == stun.BINDING_SUCCESS
    assert stun.integrity_holds(reply, message, PASSWORD.encode())


def test_it_answers_nobody_else() -> None:
    caller = client()
    for name, key in ((b"ours:other", PASSWORD.encode()), (b"ours:theirs", b"wrong")):
        request = stun.build(stun.BINDING_REQUEST, bytes(12), [(stun.USERNAME, name)], key)
        assert caller.receive(request, SERVER, 0.0) is None


def test_transactions_are_bounded() -> None:
    caller = client()
    now = 0.0
    for _ in range(3 * MAX_TRANSACTIONS):
        caller.due(now)
        now = caller.deadline

    assert len(caller._sent) == MAX_TRANSACTIONS


@given(st.binary(max_size=200))
def test_any_bytes_are_borne(data: bytes) -> None:
    caller = client()

    assert caller.receive(data, SERVER, 0.0) is None
    assert state(caller) is IceState.CHECKING
