"""Hostile checks: where kernel and Router send one, the ICE agent reads the same ufrag or rejects it."""

import hmac
import struct
from collections.abc import Iterator

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.support.steered import (
    ALIVE,
    SLOTS,
    STRANGER,
    UFRAG_0,
    UFRAG_1,
    UNKNOWN,
    Steered,
    alive_slot,
)
from tests.system.conftest import steering_unavailable
from voicerelay.shm import stun
from voicerelay.shm.path import pack_path
from voicerelay.transceiver.ice import Check, Credentials, ErrorReply, IceAgent

NOW = 5000.0
PATH = pack_path(0, "192.0.2.7", 40_000)
KEY, THEIRS = b"aPasswordThatBothHave00", b"abcd"  # the worst: each signature is good for either
UFRAGS = {0: UFRAG_0, 1: UFRAG_1}
LOOKED_AT = 12  # attributes of a message at most: more than the program looks at

NAMES = st.one_of(
    st.sampled_from([name + b":" + THEIRS for name in (UFRAG_0, UFRAG_1, UNKNOWN)]),
    st.sampled_from([UFRAG_0, UFRAG_0 + b":", UFRAG_0[:-1] + b":" + THEIRS, b":", b""]),
    st.binary(max_size=30),
)
KINDS = (
    stun.MESSAGE_INTEGRITY_SHA256,
    stun.PRIORITY,
    stun.USE_CANDIDATE,
    stun.ICE_CONTROLLING,
    stun.FINGERPRINT,
    0x8022,
    0x0024,
    0x7777,
)
OTHERS = st.tuples(st.sampled_from(KINDS), st.binary(max_size=32))
FAKES = st.tuples(st.just(stun.MESSAGE_INTEGRITY), st.sampled_from([bytes(20), b"", bytes(19)]))
ATTRIBUTES = st.tuples(st.just(stun.USERNAME), NAMES) | OTHERS | OTHERS | FAKES
LIES = st.sampled_from([0] * 90 + [-4, -1, 1, 3, 4, 16, 0xFFFF])  # in a length field


@st.composite
def attributes(draw: st.DrawFn, most: int) -> bytes:
    """Some attributes in any order, with any padding, now and then of another length than they say."""
    body = b""
    for kind, value in draw(st.lists(ATTRIBUTES, max_size=most)):
        length = len(value) + draw(LIES) & 0xFFFF
        padding = draw(st.binary(min_size=3, max_size=3))[: -len(value) % 4]
        body += struct.pack("!HH", kind, length) + value + padding
    return body


def named(ufrag: bytes) -> bytes:
    """A USERNAME as it should be."""
    return struct.pack("!HH", stun.USERNAME, 25) + ufrag + b":" + THEIRS + bytes(3)


@st.composite
def checks(draw: st.DrawFn) -> bytes:
    """A Binding request that is truly signed somewhere in its midst, with or without FINGERPRINT."""
    transaction = draw(st.binary(min_size=12, max_size=12))
    body = draw(st.sampled_from([b"", named(UFRAG_0), named(UFRAG_1)])) + draw(
        attributes(LOOKED_AT)
    )
    head = struct.pack("!HH", stun.BINDING_REQUEST, len(body) + 24) + stun.COOKIE + transaction
    body += struct.pack("!HH", stun.MESSAGE_INTEGRITY, 20) + hmac.digest(KEY, head + body, "sha1")
    body += draw(attributes(3))
    marked = draw(st.booleans())
    length = len(body) + 8 * marked + draw(LIES) & 0xFFFF
    data = struct.pack("!HH", stun.BINDING_REQUEST, length) + stun.COOKIE + transaction + body
    if marked:
        data += struct.pack("!HHI", stun.FINGERPRINT, 4, stun.fingerprint(data))
    return data


@pytest.fixture(scope="module")
def steered() -> Iterator[Steered]:
    if reason := steering_unavailable():
        pytest.skip(f"kernel steering: {reason}")
    world = Steered()
    yield world
    world.close()


@settings(deadline=None, max_examples=400)
@given(checks())
def test_a_check_is_answered_by_nobody_but_whom_it_was_sent_to(
    steered: Steered, data: bytes
) -> None:
    # when the kernel, the Router and both calls' agents judge one datagram
    process, address = steered.send(0, STRANGER, data)
    steered_to, routed_to = SLOTS[process], alive_slot(steered.router(0).decide(data, address))
    answering = set()
    for slot, ufrag in UFRAGS.items():
        agent = IceAgent(Credentials(ufrag, KEY, THEIRS), consent_at=NOW)
        if isinstance(agent.receive(data, PATH, NOW), Check | ErrorReply):
            answering.add(slot)

    # then what the kernel places is where the Router would, and whom it does not reach is silent
    event(f"steered {steered_to}, answered {sorted(answering)}")
    assert steered_to in (None, routed_to)
    assert routed_to is None or answering <= {routed_to}
    assert set(UFRAGS) == set(ALIVE)


def test_the_corpus_has_checks_that_are_steered_and_answered(steered: Steered) -> None:
    name = UFRAG_1 + b":" + THEIRS
    data = stun.build(stun.BINDING_REQUEST, bytes(12), [(stun.USERNAME, name)], KEY)
    agent = IceAgent(Credentials(UFRAG_1, KEY, THEIRS), consent_at=NOW)

    process, _ = steered.send(0, STRANGER, data)

    assert SLOTS[process] == 1
    assert isinstance(agent.receive(data, PATH, NOW), Check)
