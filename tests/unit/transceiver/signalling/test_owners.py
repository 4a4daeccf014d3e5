"""Names of calls as keys of the route table: what mentions a call, and who owns it."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicerelay.shm.region import INSTANCE_BYTES, Region, Sizes, remove_segments
from voicerelay.shm.table import KEY_BYTES, Entry
from voicerelay.shm.ufrag import verify_ufrag
from voicerelay.transceiver.signalling.owners import (
    MAX_NAME_CHARS,
    Mentioned,
    find_owner,
    mentioned,
    owner_key,
)


@given(st.text(max_size=50))
def test_a_name_is_a_key_that_no_ufrag_can_be(name: str) -> None:
    key = owner_key(name)

    assert len(key) == KEY_BYTES
    assert key.startswith(b"@")
    assert verify_ufrag(b"k" * 32, key) is None


def test_names_have_keys_of_their_own() -> None:
    assert len({owner_key(f"SmallWebRTCConnection#{n}") for n in range(1000)}) == 1000


@pytest.mark.parametrize(
    ("body", "query", "names", "offers"),
    [
        ({"sdp": "v=0", "type": "offer", "pc_id": None}, b"", [], True),
        ({"sdp": "v=0", "type": "offer", "pc_id": "a", "restart_pc": True}, b"", ["a"], True),
        ({"pc_id": "a", "candidates": []}, b"", ["a"], False),
        ({"sdp": "v=0", "type": "offer", "webrtc_id": "b"}, b"", ["b"], True),
        ({"type": "ice-candidate", "webrtc_id": "b", "candidate": {}}, b"", ["b"], False),
        ({"sdp": "v=0", "type": "answer", "pc_id": "a"}, b"", ["a"], False),
        ({"sdp": 7, "type": "offer"}, b"", [], False),
        ({"pc_id": 7, "webrtc_id": ["b"]}, b"", [], False),
        ({"pc_id": ""}, b"", [], False),
        ({"pc_id": "x" * (MAX_NAME_CHARS + 1)}, b"", [], False),
        ({"pc_id": "x" * MAX_NAME_CHARS}, b"", ["x" * MAX_NAME_CHARS], False),
        ({}, b"webrtc_id=b%20c&other=1", ["b c"], False),
        ([1], b"", [], False),
    ],
)
def test_what_pipecat_and_fastrtc_say(
    body: object, query: bytes, names: list[str], offers: bool
) -> None:
    found = mentioned(json.dumps(body).encode(), query)

    assert found == Mentioned(frozenset(owner_key(name) for name in names), offers)


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_anything_mentions_something_or_nothing(body: bytes, query: bytes) -> None:
    assert mentioned(b"{" + body, query).offers is False


@pytest.mark.parametrize(
    "body", [b"", b"v=0\r\n", b"{", b"{" * 100_000, b'{"pc_id": "\xff"}', b'{"a":' * 10_000]
)
def test_what_is_no_json_object_mentions_nothing(body: bytes) -> None:
    assert mentioned(body) == Mentioned()


def test_the_owner_is_who_holds_one_of_the_keys(tmp_path: Path) -> None:
    name = f"voicerelay-test-{tmp_path.name}"
    region = Region.create(name, bytes(INSTANCE_BYTES), Sizes.for_capacity(16))
    try:
        # given a call of slot 3 that is known by a name
        region.route_writer().put(owner_key("mine"), Entry(3, 1, 7, 0))
        routes = region.route_reader()

        assert find_owner(routes, frozenset([owner_key("other"), owner_key("mine")])) == 3
        assert find_owner(routes, frozenset([owner_key("other")])) is None
        assert find_owner(routes, frozenset()) is None
    finally:
        region.close()
        remove_segments(name)
