"""The control protocol: every message survives the wire, anything else is a ProtocolError."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicerelay.shm import protocol
from voicerelay.shm.counters import MAX_RELAYS, MAX_TRANSCEIVERS
from voicerelay.shm.path import PATH_BYTES
from voicerelay.shm.protocol import (
    LENGTH,
    MAX_MESSAGE_BYTES,
    MAX_REPLAY_ENTRIES,
    MAX_TEXT_CHARACTERS,
    Decoder,
    Message,
    ProtocolError,
    decode,
    encode,
)
from voicerelay.shm.ufrag import UFRAG_BYTES

U32 = st.integers(0, 0xFFFFFFFF)
RELAYS = st.integers(0, MAX_RELAYS - 1)
TEXT = st.text(st.characters(codec="utf-8"), max_size=60)
BYTES = st.binary(max_size=60)
UFRAG = st.binary(min_size=UFRAG_BYTES, max_size=UFRAG_BYTES)
PATH = st.binary(min_size=PATH_BYTES, max_size=PATH_BYTES).map(
    lambda data: data[:1] + b"\x00" + data[2:]
)


def keyed(key: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[list[Any]]]:
    return st.lists(st.tuples(key, U32).map(list), max_size=5)


MESSAGES: dict[type[Message], st.SearchStrategy[Message]] = {
    protocol.Hello: st.builds(
        protocol.Hello,
        U32,
        U32,
        st.sampled_from((protocol.RELAY, protocol.TRANSCEIVER)),
        RELAYS,
        U32,
        st.lists(RELAYS, max_size=MAX_RELAYS),
    ),
    protocol.Welcome: st.builds(protocol.Welcome, BYTES, TEXT, U32, BYTES, st.booleans()),
    protocol.Refused: st.builds(protocol.Refused, TEXT),
    protocol.Adopt: st.builds(protocol.Adopt, RELAYS),
    protocol.Release: st.builds(protocol.Release, RELAYS),
    protocol.RegisterRoute: st.builds(protocol.RegisterRoute, U32, UFRAG, U32),
    protocol.UnregisterRoute: st.builds(protocol.UnregisterRoute, UFRAG),
    protocol.CommitFlow: st.builds(protocol.CommitFlow, U32, PATH, U32),
    protocol.ReleaseFlow: st.builds(protocol.ReleaseFlow, PATH, U32),
    protocol.Done: st.builds(protocol.Done, U32, TEXT),
    protocol.FlowLost: st.builds(protocol.FlowLost, PATH, U32),
    protocol.Replay: st.builds(protocol.Replay, keyed(UFRAG), keyed(PATH)),
    protocol.ReplayDone: st.builds(protocol.ReplayDone),
}
ANY_MESSAGE = st.one_of(*MESSAGES.values())
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.floats(),
    st.text(max_size=30),
    st.binary(max_size=30),
    UFRAG,
    PATH,
    st.sampled_from((protocol.RELAY, protocol.TRANSCEIVER)),
    st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20)),
    st.builds(msgpack.Timestamp, st.integers(0, 1 << 34), st.integers(0, 999_999_999)),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=8),
        st.dictionaries(st.one_of(st.text(max_size=5), st.binary(max_size=5)), inner, max_size=3),
    ),
    max_leaves=10,
)
SHAPED = st.tuples(st.integers(-1, 14), st.lists(VALUES, max_size=7)).map(
    lambda pair: [pair[0], *pair[1]]
)


def decoded_or_none(body: bytes) -> Message | None:
    try:
        return decode(body)
    except ProtocolError:
        return None


def test_every_message_type_is_tried_here() -> None:
    assert set(MESSAGES) == set(protocol._TYPES)


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_a_message_survives_the_wire(kind: type[Message]) -> None:
    @settings(deadline=None, max_examples=40)
    @given(MESSAGES[kind])
    def check(message: Message) -> None:
        data = encode(message)

        assert LENGTH.unpack_from(data)[0] == len(data) - LENGTH.size
        assert decode(data[LENGTH.size :]) == message

    check()


@settings(deadline=None, max_examples=500)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_protocol_error(body: bytes) -> None:
    message = decoded_or_none(body)

    assert message is None or decode(encode(message)[LENGTH.size :]) == message


@settings(deadline=None, max_examples=250)
@given(st.one_of(SHAPED, VALUES))
def test_any_msgpack_is_a_message_or_a_protocol_error(value: object) -> None:
    message = decoded_or_none(msgpack.packb(value))

    assert message is None or decode(encode(message)[LENGTH.size :]) == message


@settings(deadline=None, max_examples=300)
@given(ANY_MESSAGE, st.data())
def test_a_mutated_message_is_a_message_or_a_protocol_error(
    message: Message, data: st.DataObject
) -> None:
    body = bytearray(encode(message)[LENGTH.size :])
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))

    decoded_or_none(bytes(body))


@settings(deadline=None)
@given(st.lists(ANY_MESSAGE, max_size=6), st.data())
def test_a_stream_may_be_cut_anywhere(messages: list[Message], data: st.DataObject) -> None:
    # given messages one behind the other, and any places to cut
    stream = b"".join(map(encode, messages))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    decoder = Decoder()

    found: list[Message] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += list(decoder.feed(stream[start:end]))

    assert found == messages
    assert not decoder.unfinished


def test_half_a_message_is_unfinished() -> None:
    decoder = Decoder()
    data = encode(protocol.Adopt(1))

    assert list(decoder.feed(data[:-1])) == []
    assert decoder.unfinished
    assert list(decoder.feed(data[-1:])) == [protocol.Adopt(1)]
    assert not decoder.unfinished


@pytest.mark.parametrize("length", [0, MAX_MESSAGE_BYTES + 1, 0xFFFFFFFF])
def test_a_length_out_of_range_is_refused_at_once(length: int) -> None:
    # given no more than the prefix of a message
    tracemalloc.start()

    with pytest.raises(ProtocolError, match="message length"):
        list(Decoder().feed(LENGTH.pack(length)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 1 << 20


def test_the_longest_message_is_waited_for() -> None:
    decoder = Decoder()

    assert list(decoder.feed(LENGTH.pack(MAX_MESSAGE_BYTES) + bytes(100))) == []
    assert decoder.unfinished


@pytest.mark.parametrize("opening", [b"\x91", b"\xdc\x00\x01", b"\x81\xa1k", b"\xde\x00\x01\xa1k"])
def test_deep_nesting_is_refused(opening: bytes) -> None:
    depth = (MAX_MESSAGE_BYTES - 1) // len(opening)

    with pytest.raises(ProtocolError):
        decode(opening * depth + b"\xc0")


@pytest.mark.parametrize(
    "body",
    [
        b"\xdd\xff\xff\xff\xff",  # an array of 4 G
        b"\xdf\xff\xff\xff\xff",  # a map
        b"\xdb\xff\xff\xff\xff",  # a text
        b"\xc6\xff\xff\xff\xff",  # bytes
        b"\xc9\xff\xff\xff\xff\x01",  # an extension
    ],
)
def test_an_announced_size_is_refused_before_it_is_allocated(body: bytes) -> None:
    tracemalloc.start()

    with pytest.raises(ProtocolError):
        decode(body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 1 << 20


def test_what_follows_a_message_is_refused() -> None:
    body = encode(protocol.ReplayDone())[LENGTH.size :]

    with pytest.raises(ProtocolError):
        decode(body + b"\xc0")


def replay(entries: int) -> Message:
    return protocol.Replay([[b"u" * UFRAG_BYTES, 1]] * entries, [])


def holding(relays: int) -> Message:
    return protocol.Hello(1, 1, protocol.RELAY, 0, 0, [0] * relays)


@pytest.mark.parametrize(
    ("make", "limit"),
    [
        (replay, MAX_REPLAY_ENTRIES),
        (holding, MAX_REPLAY_ENTRIES),
        (lambda size: protocol.Refused("ä" * size), MAX_TEXT_CHARACTERS),
        (lambda size: protocol.Welcome(b"x" * size, "", 1, b"", False), MAX_TEXT_CHARACTERS),
        (lambda size: protocol.Done(size, ""), 0xFFFFFFFF),
        (protocol.Adopt, MAX_RELAYS - 1),
        (
            lambda size: protocol.Hello(1, 1, protocol.TRANSCEIVER, size, 0, []),
            MAX_TRANSCEIVERS - 1,
        ),
    ],
)
def test_a_field_at_its_limit_passes_and_beyond_it_does_not(
    make: Callable[[int], Message], limit: int
) -> None:
    at_limit, beyond = make(limit), make(limit + 1)

    assert decode(encode(at_limit)[LENGTH.size :]) == at_limit
    with pytest.raises(ProtocolError):
        decode(encode(beyond)[LENGTH.size :])


def test_a_full_replay_of_both_tables_fits_a_message() -> None:
    path = bytes(PATH_BYTES)
    message = protocol.Replay(
        [[b"u" * UFRAG_BYTES, 0xFFFFFFFF]] * MAX_REPLAY_ENTRIES,
        [[path, 0xFFFFFFFF]] * MAX_REPLAY_ENTRIES,
    )

    assert decode(encode(message)[LENGTH.size :]) == message


def test_a_message_too_long_is_not_sent() -> None:
    with pytest.raises(ValueError, match="too long"):
        encode(protocol.Refused("x" * MAX_MESSAGE_BYTES))


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        None,
        [13],
        [-1],
        [True],
        ["Hello"],
        [3],
        [3, 1, 1],
        [3, True],
        [3, -1],
        [3, 1.0],
        [5, 1, b"short", 1],
        [5, 1, "u" * UFRAG_BYTES, 1],
        [7, 1, b"\x00\x01" + bytes(PATH_BYTES - 2), 1],
        [11, [[b"u" * UFRAG_BYTES]], []],
        [11, [[b"u" * UFRAG_BYTES, -1]], []],
        [0, 1, 1, "control", 0, 0, []],
    ],
)
def test_a_wrong_field_is_refused(value: object) -> None:
    with pytest.raises(ProtocolError):
        decode(msgpack.packb(value))
