"""Answers of STUN servers: an address, or nothing; whatever the bytes."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicerelay.cli.doctor.stun_query import (
    CHANGE_ADDRESS_AND_PORT,
    CHANGE_REQUEST,
    MAPPED_ADDRESS,
    OTHER_ADDRESS,
    query,
    read_reply,
)
from voicerelay.shm import stun

TRANSACTION = bytes(range(12))


def success(*attributes: tuple[int, bytes], transaction: bytes = TRANSACTION) -> bytes:
    return stun.build(stun.BINDING_SUCCESS, transaction, list(attributes))


@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7"])
def test_the_address_that_the_server_saw(host: str) -> None:
    packed = ipaddress.ip_address(host).packed
    reply = success((stun.XOR_MAPPED_ADDRESS, stun.xor_address(3478, packed, TRANSACTION)))

    assert read_reply(reply, TRANSACTION) == (host, 3478, False)


def test_an_old_server_tells_it_plainly_and_may_have_another_address() -> None:
    plain = bytes((0, 1)) + (3478).to_bytes(2, "big") + bytes((192, 0, 2, 7))

    reply = read_reply(success((MAPPED_ADDRESS, plain), (OTHER_ADDRESS, plain)), TRANSACTION)

    assert reply == ("192.0.2.7", 3478, True)


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        query(TRANSACTION),
        success(),
        success((stun.XOR_MAPPED_ADDRESS, bytes(7))),
        success((stun.XOR_MAPPED_ADDRESS, b"\x00\x02" + bytes(6))),
        success((stun.XOR_MAPPED_ADDRESS, b"\x00\x01" + bytes(6)), transaction=bytes(12)),
    ],
    ids=["empty", "request", "no address", "short", "family", "another transaction"],
)
def test_what_is_no_answer_to_us_is_none(reply: bytes) -> None:
    assert read_reply(reply, TRANSACTION) is None


def test_a_query_is_a_binding_request_that_may_ask_for_another_source() -> None:
    assert stun.parse(query(TRANSACTION)).kind == stun.BINDING_REQUEST
    change = CHANGE_REQUEST.to_bytes(2, "big") + b"\x00\x04" + bytes((0, 0, 0, 6))
    assert change in query(TRANSACTION, CHANGE_ADDRESS_AND_PORT)


attributes = st.lists(
    st.tuples(
        st.sampled_from((stun.XOR_MAPPED_ADDRESS, MAPPED_ADDRESS, OTHER_ADDRESS, 0x8022)),
        st.binary(max_size=24),
    ),
    max_size=4,
)


@given(st.binary(max_size=64) | attributes.map(lambda some: success(*some)))
def test_any_bytes_are_read(data: bytes) -> None:
    found = read_reply(data, TRANSACTION)

    assert found is None or ipaddress.ip_address(found.host)
