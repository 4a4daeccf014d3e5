"""Frames: what a relay packs is what a transceiver splits; anything else is a FrameError."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicerelay.shm.frame import (
    ENTRY_HEADER_BYTES,
    MAX_DATAGRAM_BYTES,
    MAX_FRAME_BYTES,
    FrameError,
    entry_header,
    split_frame,
)
from voicerelay.shm.path import PATH_BYTES

Entries = list[tuple[int, bytes, bytes]]

ENTRY = st.tuples(
    st.integers(0, 255),
    st.binary(min_size=PATH_BYTES, max_size=PATH_BYTES),
    st.binary(min_size=1, max_size=200),
)


def join(entries: Entries) -> bytes:
    return b"".join(entry_header(len(data), relay, path) + data for relay, path, data in entries)


@settings(deadline=None)
@given(st.lists(ENTRY, max_size=64))
def test_a_frame_splits_into_what_was_packed(entries: Entries) -> None:
    assert list(split_frame(join(entries))) == entries


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=300))
def test_any_bytes_split_or_raise_frame_error(frame: bytes) -> None:
    entries: Entries = []

    try:
        entries += split_frame(frame)
    except FrameError:
        return

    assert all(len(path) == PATH_BYTES and data for _, path, data in entries)
    assert sum(ENTRY_HEADER_BYTES + len(data) for _, _, data in entries) == len(frame)


@settings(deadline=None)
@given(st.lists(ENTRY, min_size=1, max_size=4), st.data())
def test_a_frame_cut_short_yields_only_whole_entries(entries: Entries, data: st.DataObject) -> None:
    frame = join(entries)
    ends = {len(join(entries[:count])) for count in range(len(entries) + 1)}
    cut = data.draw(st.integers(1, len(frame) - 1).filter(lambda at: at not in ends))

    seen: Entries = []
    with pytest.raises(FrameError):
        seen.extend(split_frame(frame[:cut]))

    assert seen == entries[: len(seen)]


def test_the_largest_datagram_passes() -> None:
    entries = [(1, bytes(PATH_BYTES), bytes(MAX_DATAGRAM_BYTES))]

    assert list(split_frame(join(entries))) == entries


@pytest.mark.parametrize("length", [0, MAX_DATAGRAM_BYTES + 1])
def test_an_empty_or_oversized_entry_is_refused(length: int) -> None:
    frame = entry_header(length, 0, bytes(PATH_BYTES)) + bytes(length)

    with pytest.raises(FrameError, match="entry length"):
        list(split_frame(frame))


def test_a_full_frame_leaves_room_for_one_more_datagram_below_64_kb() -> None:
    assert MAX_FRAME_BYTES + ENTRY_HEADER_BYTES + MAX_DATAGRAM_BYTES < 65536


def test_a_relay_socket_index_has_one_byte() -> None:
    with pytest.raises(struct.error):
        entry_header(1, 256, bytes(PATH_BYTES))
