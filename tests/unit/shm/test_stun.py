"""STUN: a message is read or refused, never anything else, and relay and ICE agent read it alike."""

import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from voicerelay.shm import stun
from voicerelay.shm.stun import BINDING_REQUEST, COOKIE, HEADER_BYTES, Message, StunError

KEY = b"password"
TRANSACTION = bytes(range(12))
INTEGRITY = struct.pack("!HH20s", stun.MESSAGE_INTEGRITY, 20, b"")

KINDS = st.sampled_from(
    (BINDING_REQUEST, stun.BINDING_INDICATION, stun.BINDING_SUCCESS, stun.BINDING_ERROR)
)
NAMED = (
    stun.USERNAME,
    stun.PRIORITY,
    stun.USE_CANDIDATE,
    stun.ICE_CONTROLLED,
    stun.ICE_CONTROLLING,
    stun.MESSAGE_INTEGRITY_SHA256,
)
ATTRIBUTES = st.lists(
    st.tuples(
        st.one_of(
            st.sampled_from(NAMED),
            st.integers(0, 0xFFFF).filter(
                lambda kind: kind not in (stun.FINGERPRINT, stun.MESSAGE_INTEGRITY)
            ),
        ),
        st.one_of(st.binary(max_size=24), st.sampled_from((b"ours:theirs", b":", b"a:b:c"))),
    ),
    max_size=6,
)
BUILT = st.builds(
    stun.build,
    KINDS,
    st.just(TRANSACTION),
    ATTRIBUTES,
    st.sampled_from((None, KEY)),
    st.booleans(),
)


def request(*attributes: tuple[int, bytes], key: bytes | None = KEY) -> bytes:
    return stun.build(BINDING_REQUEST, TRANSACTION, list(attributes), key)


def raw(body: bytes, kind: int = BINDING_REQUEST) -> bytes:
    """A message around any attribute bytes, with a length that is right."""
    return struct.pack("!HH4s12s", kind, len(body), COOKIE, TRANSACTION) + body


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid message with bytes changed, cut out or put in, its length mended or not."""
    data = bytearray(draw(BUILT))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(("change", "cut", "insert"))):
            case "change" if data:
                data[at] = draw(st.integers(0, 255))
            case "cut":
                del data[at : at + draw(st.integers(1, 8))]
            case _:
                data[at:at] = draw(st.binary(max_size=8))
    if draw(st.booleans()) and len(data) >= HEADER_BYTES:
        data[2:4] = (len(data) - HEADER_BYTES).to_bytes(2, "big")
    return bytes(data)


ANYTHING = st.one_of(st.binary(max_size=120), st.binary(max_size=120).map(raw), BUILT, mutated())


def parse_or_none(data: bytes) -> Message | None:
    try:
        return stun.parse(data)
    except StunError:
        return None


@settings(deadline=None, max_examples=500)
@given(ANYTHING)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    message = parse_or_none(data)

    assert message is None or message.transaction == data[8:20]


@settings(deadline=None, max_examples=500)
@given(ANYTHING)
@example(raw(INTEGRITY + struct.pack("!HH4s", stun.USERNAME, 4, b"a:b:")))
@example(raw(struct.pack("!HH4s", stun.USERNAME, 4, b"none") + INTEGRITY))
def test_relay_and_ice_agent_see_one_ufrag(data: bytes) -> None:
    ufrag = stun.server_ufrag(data)
    message = parse_or_none(data)

    if message is None:
        return
    username = message.username
    if ufrag is not None and message.integrity is not None and username is not None:
        assert username.startswith(ufrag + b":")
    if message.kind == BINDING_REQUEST and message.integrity and username and b":" in username:
        assert ufrag == username.partition(b":")[0]


def test_every_first_byte_and_short_length_is_read_or_refused() -> None:
    for length in range(65):
        tail = struct.pack("!BH4s12s", 1, max(0, length - HEADER_BYTES) & 0xFFFF, COOKIE, bytes(12))
        for first in range(256):
            for rest in (bytes(64), tail + bytes(64), tail + INTEGRITY + bytes(64)):
                data = (bytes([first]) + rest)[:length]

                message = parse_or_none(data)
                ufrag = stun.server_ufrag(data)

                assert message is None or (first < 0x40 and length >= HEADER_BYTES)
                assert ufrag is None


@settings(deadline=None)
@given(KINDS, ATTRIBUTES, st.booleans())
def test_a_built_message_is_read_back(
    kind: int, attributes: list[tuple[int, bytes]], with_fingerprint: bool
) -> None:
    data = stun.build(kind, TRANSACTION, attributes, KEY, with_fingerprint)

    message = stun.parse(data)

    usernames = [value for name, value in attributes if name == stun.USERNAME]
    assert (message.kind, message.transaction) == (kind, TRANSACTION)
    assert message.fingerprint == with_fingerprint
    assert message.username == (usernames[0] if usernames else None)
    assert message.use_candidate == any(name == stun.USE_CANDIDATE for name, _ in attributes)
    assert message.controlled == any(name == stun.ICE_CONTROLLED for name, _ in attributes)
    assert stun.integrity_holds(data, message, KEY)
    assert not stun.integrity_holds(data, message, b"another")


@settings(deadline=None)
@given(ATTRIBUTES, st.integers(min_value=0), st.integers(1, 255))
def test_a_changed_byte_breaks_the_integrity(
    attributes: list[tuple[int, bytes]], where: int, change: int
) -> None:
    # given an authentic message without FINGERPRINT, and one byte of it changed
    data = bytearray(stun.build(BINDING_REQUEST, TRANSACTION, attributes, KEY, False))
    data[where % len(data)] ^= change

    message = parse_or_none(bytes(data))

    assert message is None or not stun.integrity_holds(bytes(data), message, KEY)


def test_a_message_without_integrity_never_holds() -> None:
    data = request(key=None)

    assert not stun.integrity_holds(data, stun.parse(data), KEY)


def test_the_first_username_counts() -> None:
    data = request((stun.USERNAME, b"first:x"), (stun.USERNAME, b"second:y"))

    assert stun.parse(data).username == b"first:x"
    assert stun.server_ufrag(data) == b"first"


def test_a_username_after_integrity_does_not_count() -> None:
    data = raw(INTEGRITY + struct.pack("!HH4s", stun.USERNAME, 4, b"a:b:"))

    assert stun.parse(data).username is None
    assert stun.server_ufrag(data) is None


@pytest.mark.parametrize(
    "kind", [stun.BINDING_INDICATION, stun.BINDING_SUCCESS, stun.BINDING_ERROR, 0x0003]
)
def test_only_a_binding_request_names_a_ufrag(kind: int) -> None:
    data = stun.build(kind, TRANSACTION, [(stun.USERNAME, b"ours:theirs")], KEY)

    assert stun.server_ufrag(data) is None


def test_the_longest_username_passes_and_one_more_byte_does_not() -> None:
    longest = b"u:" + bytes(stun.MAX_USERNAME_BYTES - 2)
    passes, fails = (request((stun.USERNAME, name)) for name in (longest, longest + b"\x00"))

    assert stun.parse(passes).username == longest
    assert stun.server_ufrag(passes) == b"u"
    assert stun.server_ufrag(fails) is None
    with pytest.raises(StunError, match="username length"):
        stun.parse(fails)


def test_at_most_so_many_unknown_attributes_are_named() -> None:
    # given more comprehension-required attributes than a 420 answer names
    unknown = list(range(0x4000, 0x4000 + stun.MAX_UNKNOWN_ATTRIBUTES + 5))

    message = stun.parse(request(*((kind, b"") for kind in unknown)))

    assert message.unknown == tuple(unknown[: stun.MAX_UNKNOWN_ATTRIBUTES])


@pytest.mark.parametrize("kind", [0x8000, 0xFFFF, stun.ICE_CONTROLLING, stun.PRIORITY])
def test_optional_and_understood_attributes_are_not_unknown(kind: int) -> None:
    assert stun.parse(request((kind, b"1234"))).unknown == ()


def test_a_message_beyond_a_usual_check_is_read() -> None:
    # given a check with a DTLS flight embedded (SPED), far above the usual size
    data = request((stun.USERNAME, b"ours:theirs"), (0xC070, bytes(1400)))

    assert stun.parse(data).username == b"ours:theirs"
    assert stun.server_ufrag(data) == b"ours"


FINGERPRINT = struct.pack("!HHI", stun.FINGERPRINT, 4, 0)
BROKEN = {
    "empty": b"",
    "shorter than a header": raw(b"")[:-4],
    "odd length": raw(bytes(3)),
    "no cookie": raw(b"").replace(COOKIE, bytes(4)),
    "first bits set": raw(b"", kind=0x8001),
    "length too large": raw(bytes(4))[:-4],
    "length too small": raw(b"") + bytes(4),
    "attribute beyond the end": raw(struct.pack("!HH4s", 0x8022, 5, b"")),
    "integrity of 16 bytes": raw(struct.pack("!HH16s", stun.MESSAGE_INTEGRITY, 16, b"")),
    "wrong fingerprint": raw(FINGERPRINT),
    "fingerprint of 8 bytes": raw(struct.pack("!HH8s", stun.FINGERPRINT, 8, b"")),
    "fingerprint not last": raw(FINGERPRINT + struct.pack("!HH", 0x8022, 0)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_message_is_refused(name: str) -> None:
    with pytest.raises(StunError):
        stun.parse(BROKEN[name])
