"""The server's ufrag: made under a key, read back under it, and dead under any other."""

import re
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicerelay.shm import ufrag as module
from voicerelay.shm.ufrag import (
    MAC_BYTES,
    PASSWORD_BYTES,
    RANDOM_BYTES,
    UFRAG_BYTES,
    Ufrag,
    make_password,
    make_ufrag,
    verify_ufrag,
)

KEY = bytes(range(32))
ICE_CHARS = re.compile(rb"[A-Za-z0-9+/]+")
U16 = st.integers(0, 0xFFFF)


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=32), U16, U16)
def test_a_ufrag_names_its_maker(key: bytes, node: int, slot: int) -> None:
    ufrag = make_ufrag(key, node, slot)

    assert verify_ufrag(key, ufrag) == Ufrag(node, slot)


@settings(deadline=None)
@given(U16, U16)
def test_a_ufrag_has_ice_characters_only(node: int, slot: int) -> None:
    ufrag = make_ufrag(KEY, node, slot)

    assert len(ufrag) == UFRAG_BYTES
    assert ICE_CHARS.fullmatch(ufrag)


def test_two_ufrags_of_one_slot_differ() -> None:
    made = {make_ufrag(KEY, 1, 2) for _ in range(1000)}

    assert len(made) == 1000


@settings(deadline=None)
@given(st.integers(0, UFRAG_BYTES - 1), st.sampled_from(b"ABCxyz019+/"))
def test_one_changed_character_breaks_the_mac(position: int, character: int) -> None:
    ufrag = make_ufrag(KEY, 3, 4)
    forged = bytearray(ufrag)
    forged[position] = character

    found = verify_ufrag(KEY, bytes(forged))

    assert found == (Ufrag(3, 4) if forged == ufrag else None)


def test_another_key_does_not_verify() -> None:
    assert verify_ufrag(bytes(32), make_ufrag(KEY, 1, 1)) is None


def test_another_version_does_not_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VERSION", 2)
    newer = make_ufrag(KEY, 1, 1)
    monkeypatch.undo()

    assert verify_ufrag(KEY, newer) is None


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.binary(max_size=40), st.binary(min_size=UFRAG_BYTES, max_size=UFRAG_BYTES)))
def test_any_bytes_are_answered_with_none(data: bytes) -> None:
    assert verify_ufrag(KEY, data) is None


@pytest.mark.parametrize("number", [-1, 0x10000])
def test_a_number_that_does_not_fit_is_refused(number: int) -> None:
    with pytest.raises(struct.error):
        make_ufrag(KEY, number, 0)


def test_the_parts_fill_the_ufrag() -> None:
    assert UFRAG_BYTES * 6 // 8 == 1 + 2 + 2 + RANDOM_BYTES + MAC_BYTES


def test_a_password_has_144_bits_of_ice_characters() -> None:
    password = make_password()

    assert len(password) == PASSWORD_BYTES
    assert ICE_CHARS.fullmatch(password)
    assert password != make_password()
