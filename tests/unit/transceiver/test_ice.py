"""Which Binding requests an ICE-lite agent answers, and how (RFC 8489, RFC 8445 §7.3)."""

import copy
import dataclasses

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from voicerelay.shm import stun
from voicerelay.shm.counters import TransceiverCounter as Drop
from voicerelay.shm.path import pack_path
from voicerelay.transceiver.ice import (
    CONSENT_EXPIRY_S,
    MAX_TRANSACTIONS,
    RESTART_OVERLAP_S,
    Check,
    Credentials,
    ErrorReply,
    IceAgent,
    IceState,
)

NOW = 5000.0
OLD = Credentials(b"serverUfrag000000001", b"serverPassword0000000001", b"abcd")
NEW = Credentials(b"serverUfrag000000002", b"serverPassword0000000002", b"efgh")
V4 = pack_path(0, "192.0.2.7", 40_000)
V6 = pack_path(1, "2001:db8::7", 40_001)
CONTROLLING = (stun.ICE_CONTROLLING, bytes(8))
PRIORITY = (stun.PRIORITY, bytes(4))
NOMINATE = (stun.USE_CANDIDATE, b"")


def transaction(number: int) -> bytes:
    return number.to_bytes(12, "big")


def request(
    number: int = 1,
    *,
    username: bytes = OLD.ufrag + b":" + OLD.remote_ufrag,
    password: bytes | None = OLD.password,
    extra: tuple[tuple[int, bytes], ...] = (),
    kind: int = stun.BINDING_REQUEST,
    fingerprint: bool = True,
) -> bytes:
    """A check as browsers send it; `extra` stands before MESSAGE-INTEGRITY."""
    attributes = [(stun.USERNAME, username), CONTROLLING, PRIORITY, *extra]
    return stun.build(kind, transaction(number), attributes, password, fingerprint)


def attributes_of(data: bytes) -> dict[int, bytes]:
    found, at = {}, stun.HEADER_BYTES
    while at < len(data):
        kind, length = int.from_bytes(data[at : at + 2], "big"), data[at + 3]
        found[kind] = data[at + 4 : at + 4 + length]
        at += 4 + (length + 3 & ~3)
    return found


def agent() -> IceAgent:
    return IceAgent(OLD, consent_at=NOW)


def verified(reply: bytes, password: bytes = OLD.password) -> stun.Message:
    """A reply as the client reads it: integrity and fingerprint must hold."""
    message = stun.parse(reply)
    assert message.fingerprint
    assert stun.integrity_holds(reply, message, password)
    return message


# ---- what is answered ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", [V4, V6])
@pytest.mark.parametrize("extra", [(), (NOMINATE,)], ids=["plain", "nominating"])
@pytest.mark.parametrize("fingerprint", [True, False])
def test_an_authenticated_check_is_answered_with_the_address_it_came_from(
    path: bytes, extra: tuple[tuple[int, bytes], ...], fingerprint: bool
) -> None:
    check = agent().receive(request(7, extra=extra, fingerprint=fingerprint), path, NOW)

    assert isinstance(check, Check)
    reply = verified(check.reply)
    assert (reply.kind, reply.transaction) == (stun.BINDING_SUCCESS, transaction(7))
    port, address = (40_000, bytes((192, 0, 2, 7))) if path == V4 else (40_001, path[4:])
    mapped = attributes_of(check.reply)[stun.XOR_MAPPED_ADDRESS]
    assert mapped == stun.xor_address(port, address, transaction(7))
    assert check.nominate == bool(extra)
    assert len(check.reply) == (64 if path == V4 else 76)


def test_no_answer_is_larger_than_the_check_browsers_send() -> None:
    for data in (request(), request(extra=(NOMINATE,))):
        check = agent().receive(data, V6, NOW)
        assert isinstance(check, Check)
        assert len(check.reply) <= len(data)


def test_a_retransmitted_check_is_answered_again() -> None:
    ice = agent()

    first, second = (ice.receive(request(), V4, NOW + wait) for wait in (0.0, 0.5))

    assert first == second
    assert isinstance(first, Check)


@pytest.mark.parametrize("kind", [0x0002, 0x7FFF, 0x0026])
def test_an_unknown_attribute_that_must_be_understood_is_answered_with_420(kind: int) -> None:
    ice = agent()
    before = copy.deepcopy(ice)

    found = ice.receive(request(extra=((kind, b"abc"), (0x0003, b""))), V4, NOW)

    assert isinstance(found, ErrorReply)
    assert verified(found.reply).kind == stun.BINDING_ERROR
    attributes = attributes_of(found.reply)
    assert attributes[stun.ERROR_CODE][:4] == bytes((0, 0, 4, 20))
    assert attributes[stun.UNKNOWN_ATTRIBUTES] == kind.to_bytes(2, "big") + b"\x00\x03"
    before._transactions = ice._transactions  # remembered, against replays
    assert ice == before


def test_a_420_answer_names_a_bounded_number_of_attributes() -> None:
    many = tuple((kind, b"") for kind in range(0x4000, 0x4000 + 3 * stun.MAX_UNKNOWN_ATTRIBUTES))

    found = agent().receive(request(extra=many), V4, NOW)

    assert isinstance(found, ErrorReply)
    unknown = attributes_of(found.reply)[stun.UNKNOWN_ATTRIBUTES]
    assert len(unknown) == 2 * stun.MAX_UNKNOWN_ATTRIBUTES
    assert len(found.reply) <= len(request(extra=many))


def test_an_unknown_optional_attribute_is_passed_over() -> None:
    # 0xC057 network cost, 0xC070 and above: DTLS in STUN of newer browsers
    extra = ((0xC057, bytes(4)), (0xC070, bytes(1100)))

    assert isinstance(agent().receive(request(extra=extra), V4, NOW), Check)


@pytest.mark.parametrize(
    ("username", "answered"),
    [
        (OLD.ufrag + b":abcd", True),
        (OLD.ufrag + b":", True),
        (OLD.ufrag, False),
        (NEW.ufrag + b":abcd", False),
    ],
)
def test_before_we_are_told_the_clients_ufrag_ours_and_the_password_decide(
    username: bytes, answered: bool
) -> None:
    # given an answer that the client has sooner than aiortc has told us its ufrag
    unmet = IceAgent(dataclasses.replace(OLD, remote_ufrag=b""), consent_at=NOW)

    result = unmet.receive(request(username=username), V4, NOW)
    forged = unmet.receive(request(2, username=username, password=NEW.password), V4, NOW)

    assert isinstance(result, Check) == answered
    assert forged is Drop.DROPPED_BAD_INTEGRITY


def test_an_agent_without_a_name_of_its_own_answers_nobody() -> None:
    nameless = IceAgent(Credentials(b"", b"", b""), consent_at=NOW)

    result = nameless.receive(request(username=b":abcd", password=b""), V4, NOW)

    assert result is Drop.DROPPED_BAD_INTEGRITY


def test_a_client_that_says_it_is_controlled_is_told_to_switch() -> None:
    ice = agent()
    before = copy.deepcopy(ice)
    data = request(extra=((stun.ICE_CONTROLLED, bytes(8)), NOMINATE))

    found = ice.receive(data, V4, NOW)

    assert isinstance(found, ErrorReply)
    assert verified(found.reply).kind == stun.BINDING_ERROR
    assert attributes_of(found.reply)[stun.ERROR_CODE][:4] == bytes((0, 0, 4, 87))
    assert len(found.reply) <= len(data)
    before._transactions = ice._transactions  # remembered, against replays
    assert ice == before


# ---- what is not ---------------------------------------------------------------------------------


def _broken(data: bytes, at: int) -> bytes:
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


GOOD = request()
FINGERPRINT_NOT_LAST = stun.build(
    stun.BINDING_REQUEST,
    transaction(1),
    [(stun.USERNAME, OLD.ufrag + b":abcd"), (stun.FINGERPRINT, bytes(4)), PRIORITY],
    OLD.password,
)
REFUSED = {
    "integrity missing": (request(password=None), Drop.DROPPED_BAD_INTEGRITY),
    "all of it stripped": (request(password=None, fingerprint=False), Drop.DROPPED_BAD_INTEGRITY),
    "wrong password": (request(password=NEW.password), Drop.DROPPED_BAD_INTEGRITY),
    "empty password": (request(password=b""), Drop.DROPPED_BAD_INTEGRITY),
    "wrong ufrag": (request(username=NEW.ufrag + b":abcd"), Drop.DROPPED_BAD_INTEGRITY),
    "wrong remote ufrag": (request(username=OLD.ufrag + b":abce"), Drop.DROPPED_BAD_INTEGRITY),
    "no remote ufrag": (request(username=OLD.ufrag), Drop.DROPPED_BAD_INTEGRITY),
    "ufrags exchanged": (request(username=b"abcd:" + OLD.ufrag), Drop.DROPPED_BAD_INTEGRITY),
    "ufrag prefix": (request(username=OLD.ufrag[:4] + b":abcd"), Drop.DROPPED_BAD_INTEGRITY),
    "second username counts for nothing": (
        request(username=b"x:y", extra=((stun.USERNAME, OLD.ufrag + b":abcd"),)),
        Drop.DROPPED_BAD_INTEGRITY,
    ),
    "changed under the integrity": (
        _broken(request(fingerprint=False), 24),
        Drop.DROPPED_BAD_INTEGRITY,
    ),
    "integrity changed": (
        _broken(request(fingerprint=False), len(GOOD) - 9),
        Drop.DROPPED_BAD_INTEGRITY,
    ),
    "fingerprint wrong": (_broken(GOOD, len(GOOD) - 1), Drop.DROPPED_MALFORMED_STUN),
    "fingerprint not last": (FINGERPRINT_NOT_LAST, Drop.DROPPED_MALFORMED_STUN),
    "empty": (b"", Drop.DROPPED_MALFORMED_STUN),
    "cut short": (GOOD[:-4], Drop.DROPPED_MALFORMED_STUN),
    "something after it": (GOOD + bytes(4), Drop.DROPPED_MALFORMED_STUN),
    "another cookie": (GOOD.replace(stun.COOKIE, bytes(4)), Drop.DROPPED_MALFORMED_STUN),
    "indication": (request(kind=stun.BINDING_INDICATION), Drop.DROPPED_NOT_REQUEST),
    "success": (request(kind=stun.BINDING_SUCCESS), Drop.DROPPED_NOT_REQUEST),
    "error": (request(kind=stun.BINDING_ERROR), Drop.DROPPED_NOT_REQUEST),
    "TURN allocate": (request(kind=0x0003), Drop.DROPPED_NOT_REQUEST),
}


@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_an_authenticated_check_is_dropped_and_changes_nothing(
    data: bytes, reason: Drop
) -> None:
    # given an agent with a call
    ice = agent()
    check = ice.receive(request(99, extra=(NOMINATE,)), V4, NOW)
    assert isinstance(check, Check)
    ice.accept(check, NOW)
    before = copy.deepcopy(ice)

    for path in (V4, V6):
        assert ice.receive(data, path, NOW + 1) is reason
    assert ice == before


def test_a_check_with_an_unknown_attribute_is_not_answered_before_it_is_authenticated() -> None:
    data = request(password=b"wrong", extra=((0x0002, b""), (stun.ICE_CONTROLLED, bytes(8))))

    assert agent().receive(data, V4, NOW) is Drop.DROPPED_BAD_INTEGRITY


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_nothing_but_the_password_opens_the_door(data: st.DataObject) -> None:
    # given a good check with bytes changed up to the end of its integrity, or any bytes at all
    good = request(fingerprint=data.draw(st.booleans()))
    forged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(GOOD) - 9))
        forged[at] ^= data.draw(st.integers(1, 255))
    assume(bytes(forged) != good)
    junk = data.draw(st.one_of(st.just(bytes(forged)), st.binary(max_size=200)))
    ice = agent()
    before = copy.deepcopy(ice)

    # when it comes
    found = ice.receive(junk, V4, NOW)

    # then it is dropped
    assert isinstance(found, Drop)
    assert ice == before


def test_a_closed_agent_answers_nothing() -> None:
    ice = agent()
    ice.close()

    assert ice.receive(request(), V4, NOW) is Drop.DROPPED_UNKNOWN_UFRAG
    assert (ice.state, ice.selected, len(ice.valid)) == (IceState.CLOSED, None, 0)


# ---- replay, restart, consent --------------------------------------------------------------------


@pytest.mark.parametrize("extra", [(), (NOMINATE,)], ids=["plain", "nominating"])
def test_a_replayed_check_from_another_address_is_dropped(
    extra: tuple[tuple[int, bytes], ...],
) -> None:
    # given a check that has been answered
    ice = agent()
    check = ice.receive(request(extra=extra), V4, NOW)
    assert isinstance(check, Check)
    ice.accept(check, NOW)
    before = copy.deepcopy(ice)

    # when somebody who saw it sends it from elsewhere, at once or when the call is silent
    found = [ice.receive(request(extra=extra), V6, NOW + wait) for wait in (0.0, 20.0)]

    # then nothing moves
    assert found == [Drop.DROPPED_REPLAYED_CHECK] * 2
    assert ice == before


def test_the_memory_of_transactions_is_bounded_and_keeps_the_newest() -> None:
    ice = agent()

    for number in range(2 * MAX_TRANSACTIONS):
        assert isinstance(ice.receive(request(number), V4, NOW), Check)

    newest = [transaction(number) for number in range(MAX_TRANSACTIONS, 2 * MAX_TRANSACTIONS)]
    assert list(ice._transactions) == newest
    assert ice.receive(request(MAX_TRANSACTIONS), V6, NOW) is Drop.DROPPED_REPLAYED_CHECK


def test_the_credentials_before_a_restart_stay_good_for_a_while() -> None:
    # given a restart
    ice = agent()
    ice.restart(NEW, NOW)
    old = request()
    new = request(2, username=NEW.ufrag + b":" + NEW.remote_ufrag, password=NEW.password)

    # then both are good for RESTART_OVERLAP_S, each answered under its own password
    for now in (NOW, NOW + RESTART_OVERLAP_S - 0.01):
        for data, password in ((old, OLD.password), (new, NEW.password)):
            check = ice.receive(data, V4, now)
            assert isinstance(check, Check)
            verified(check.reply, password)
        assert ice.overlapping(now)

    # and then only the new ones
    end = NOW + RESTART_OVERLAP_S
    assert ice.receive(old, V4, end) is Drop.DROPPED_BAD_INTEGRITY
    assert isinstance(ice.receive(new, V4, end), Check)
    assert not ice.overlapping(end)


@pytest.mark.parametrize(
    ("username", "password"),
    [
        (OLD.ufrag + b":" + OLD.remote_ufrag, NEW.password),
        (NEW.ufrag + b":" + NEW.remote_ufrag, OLD.password),
        (NEW.ufrag + b":" + OLD.remote_ufrag, NEW.password),
    ],
)
def test_old_and_new_credentials_do_not_mix(username: bytes, password: bytes) -> None:
    ice = agent()
    ice.restart(NEW, NOW)

    found = ice.receive(request(username=username, password=password), V4, NOW)

    assert found is Drop.DROPPED_BAD_INTEGRITY


def test_consent_ends_thirty_seconds_after_the_last_accepted_check() -> None:
    # given a check accepted ten seconds after the start
    ice = agent()
    assert not ice.expired(NOW + CONSENT_EXPIRY_S)
    check = ice.receive(request(), V4, NOW + 10)
    assert isinstance(check, Check)
    ice.accept(check, NOW + 10)

    # when only unauthenticated ones follow
    ice.receive(request(password=b"wrong"), V4, NOW + 20)

    # then consent runs out (RFC 7675 §5.1)
    assert not ice.expired(NOW + 10 + CONSENT_EXPIRY_S)
    assert ice.expired(NOW + 10 + CONSENT_EXPIRY_S + 0.01)
