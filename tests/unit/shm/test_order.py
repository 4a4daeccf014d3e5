"""Orders over the lifeline: what is encoded is read back, anything else is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicerelay.shm.order import (
    DRAIN,
    MAX_DEADLINE_S,
    MAX_ORDER_BYTES,
    OPEN,
    RETIRE,
    Order,
    parse_order,
)


@given(st.sampled_from([OPEN, DRAIN, RETIRE]), st.integers(0, MAX_DEADLINE_S))
def test_an_order_is_read_as_it_was_given(what: str, deadline_s: int) -> None:
    order = Order(what, deadline_s)

    assert parse_order(order.encode()) == order
    assert len(order.encode()) <= MAX_ORDER_BYTES


@given(st.binary(max_size=MAX_ORDER_BYTES + 8))
def test_any_bytes_are_an_order_or_none(data: bytes) -> None:
    order = parse_order(data)

    assert order is None or 0 <= order.deadline_s <= MAX_DEADLINE_S


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"drain",
        b"drain -1",
        b"drain 1.5",
        b"drain 1 2",
        b"stop 1",
        b"drain %d" % (MAX_DEADLINE_S + 1),
        b"drain " + b"0" * MAX_ORDER_BYTES,
    ],
)
def test_what_is_no_order_is_none(data: bytes) -> None:
    assert parse_order(data) is None
