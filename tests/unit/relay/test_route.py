"""Where a packet goes: law 1, the reason of every drop, and a flow cache that is never stale."""

import itertools
import random
from collections import Counter
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicerelay.relay import route
from voicerelay.relay.route import Destination, Router
from voicerelay.shm import stun
from voicerelay.shm.counters import RelayCounter
from voicerelay.shm.frame import MAX_DATAGRAM_BYTES, entry_tail
from voicerelay.shm.path import Address, address_path, pack_path
from voicerelay.shm.table import RECORD_BYTES, Entry, TableWriter

SEED = 20261125
LOCAL, RELAY = 1, 5
CLIENT: Address = ("192.0.2.7", 40_000)
UFRAG = b"AAAAbbbbCCCCdddd0001"
OTHER_UFRAG = b"AAAAbbbbCCCCdddd0002"
DTLS = bytes((22, 254, 253)) + bytes(20)
RTP = bytes((128, 111)) + bytes(30)
RECORDS = 64
ENTRIES = st.builds(Entry, st.integers(0, 3), st.integers(1, 9), st.integers(1, 9), st.just(0))


class Tables:
    """Routes and flows as control holds them, in ordinary memory."""

    def __init__(self, records: int = RECORDS) -> None:
        self.memory = [bytearray(records * RECORD_BYTES) for _ in range(2)]
        self.routes, self.flows = (
            TableWriter(memoryview(part), memoryview(bytearray(4)), records // 2)
            for part in self.memory
        )

    def router(self, local: int = LOCAL) -> Router[Address]:
        return Router(RELAY, self.routes, self.flows, partial(address_path, local))


def to(slot: int, generation: int, path: bytes) -> Destination:
    return Destination((slot, generation), entry_tail(RELAY, path))


def check(ufrag: bytes, kind: int = stun.BINDING_REQUEST) -> bytes:
    return stun.build(kind, bytes(12), [(stun.USERNAME, ufrag + b":theirs")], b"any password")


def flow_to(tables: Tables, address: Address, entry: Entry) -> bytes:
    path = pack_path(LOCAL, address[0], address[1])
    tables.flows.put(path, entry)
    return path


def test_a_binding_request_goes_by_its_ufrag_even_from_an_address_of_another_session() -> None:
    # given an address whose flow leads to session 1 at slot 0
    tables = Tables()
    path = flow_to(tables, CLIENT, Entry(0, 1, 1, 0))
    tables.routes.put(OTHER_UFRAG, Entry(2, 5, 9, 0))
    router = tables.router()

    # when it sends media, and then a check for a session at slot 2
    media, request = router.decide(RTP, CLIENT), router.decide(check(OTHER_UFRAG), CLIENT)

    # then each goes where law 1 says, also with the flow in the cache
    assert (media, request) == (to(0, 1, path), to(2, 5, path))
    assert router.decide(RTP, CLIENT) == to(0, 1, path)


@pytest.mark.parametrize(
    "datagram",
    [
        DTLS,
        RTP,
        check(OTHER_UFRAG, stun.BINDING_SUCCESS),
        check(OTHER_UFRAG, stun.BINDING_ERROR),
        check(OTHER_UFRAG, stun.BINDING_INDICATION),
    ],
    ids=["dtls", "rtp", "success", "error", "indication"],
)
def test_everything_but_a_binding_request_goes_by_its_flow(datagram: bytes) -> None:
    # given a flow, and a route that the packet names in vain
    tables = Tables()
    path = flow_to(tables, CLIENT, Entry(0, 1, 1, 0))
    tables.routes.put(OTHER_UFRAG, Entry(2, 5, 9, 0))

    assert tables.router().decide(datagram, CLIENT) == to(0, 1, path)
    assert tables.router().decide(datagram, ("192.0.2.8", 1)) is RelayCounter.DROPPED_UNKNOWN_FLOW


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (b"", RelayCounter.DROPPED_EMPTY),
        (RTP + bytes(MAX_DATAGRAM_BYTES), RelayCounter.DROPPED_OVERSIZED),
        (b"\x40" + bytes(30), RelayCounter.DROPPED_NOT_WEBRTC),
        (check(UFRAG)[:19], RelayCounter.DROPPED_MALFORMED_STUN),
        (check(UFRAG).replace(stun.COOKIE, bytes(4)), RelayCounter.DROPPED_MALFORMED_STUN),
        (check(UFRAG)[:-4], RelayCounter.DROPPED_MALFORMED_STUN),
        (stun.build(1, bytes(12), []), RelayCounter.DROPPED_MALFORMED_STUN),
        (stun.build(1, bytes(12), [(6, b"no colon")]), RelayCounter.DROPPED_MALFORMED_STUN),
        (check(OTHER_UFRAG), RelayCounter.DROPPED_UNKNOWN_UFRAG),
        (check(b"short"), RelayCounter.DROPPED_UNKNOWN_UFRAG),
        (check(UFRAG + b"x"), RelayCounter.DROPPED_UNKNOWN_UFRAG),
        (DTLS, RelayCounter.DROPPED_UNKNOWN_FLOW),
    ],
)
def test_every_drop_has_its_reason(datagram: bytes, reason: RelayCounter) -> None:
    tables = Tables()
    tables.routes.put(UFRAG, Entry(0, 1, 1, 0))

    assert tables.router().decide(datagram, CLIENT) is reason


def test_the_longest_datagram_passes_and_one_byte_more_does_not() -> None:
    tables = Tables()
    path = flow_to(tables, CLIENT, Entry(0, 1, 1, 0))
    router = tables.router()

    assert router.decide(RTP.ljust(MAX_DATAGRAM_BYTES, b"."), CLIENT) == to(0, 1, path)
    assert (
        router.decide(RTP.ljust(MAX_DATAGRAM_BYTES + 1, b"."), CLIENT)
        is RelayCounter.DROPPED_OVERSIZED
    )


def test_every_first_byte_and_length_has_exactly_one_decision() -> None:
    # given an address with a flow, and one without
    tables = Tables()
    path = flow_to(tables, CLIENT, Entry(0, 1, 1, 0))
    router = tables.router()

    # when all first bytes come in all short lengths
    seen: Counter[object] = Counter()
    for byte, length in itertools.product(range(256), range(65)):
        datagram = (bytes((byte,)) + bytes(64))[:length]
        known, unknown = router.decide(datagram, CLIENT), router.decide(datagram, ("192.0.2.9", 1))
        seen[known] += 1

        # then a destination for one is "no such flow" for the other, and drops are alike
        assert unknown == (RelayCounter.DROPPED_UNKNOWN_FLOW if known == to(0, 1, path) else known)
    assert seen == {
        RelayCounter.DROPPED_EMPTY: 256,
        RelayCounter.DROPPED_NOT_WEBRTC: 64 * (256 - 4 - 44 - 64),
        RelayCounter.DROPPED_MALFORMED_STUN: 64 * 4,  # no cookie among zeros
        to(0, 1, path): 64 * (44 + 64),
    }


@pytest.mark.parametrize("v6", [("::ffff:192.0.2.7", 40_000), ("::ffff:c000:207", 40_000, 0, 0)])
def test_an_ipv4_mapped_address_is_the_same_client(v6: Address) -> None:
    # given a flow and a route, committed from IPv4
    tables = Tables()
    path = flow_to(tables, CLIENT, Entry(0, 1, 1, 0))
    tables.routes.put(UFRAG, Entry(3, 2, 1, 0))
    router = tables.router()

    assert router.decide(RTP, v6) == router.decide(RTP, CLIENT) == to(0, 1, path)
    assert router.decide(check(UFRAG), v6) == to(3, 2, path)


def test_the_same_client_at_another_listen_address_is_another_flow() -> None:
    tables = Tables()
    flow_to(tables, CLIENT, Entry(0, 1, 1, 0))

    assert tables.router(LOCAL + 1).decide(RTP, CLIENT) is RelayCounter.DROPPED_UNKNOWN_FLOW


@settings(deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=40), max_size=50))
def test_unknown_ufrags_and_flows_never_touch_the_tables(ufrags: list[bytes]) -> None:
    # given tables in use
    tables = Tables()
    flow_to(tables, CLIENT, Entry(0, 1, 1, 0))
    tables.routes.put(UFRAG, Entry(0, 1, 1, 0))
    router = tables.router()
    before = [bytes(part) for part in tables.memory]

    # when strangers guess
    for number, ufrag in enumerate(ufrags):
        router.decide(check(ufrag.replace(UFRAG, b"")), ("198.51.100.1", number))
        router.decide(RTP, ("198.51.100.1", number))

    # then not a byte has changed
    assert [bytes(part) for part in tables.memory] == before


ADDRESSES: list[Address] = [(f"10.0.0.{n}", 5000 + n) for n in range(12)]
ADDRESSES += [(f"2001:db8::{n}", 6000, 0, 0) for n in range(12)]
STEPS = st.tuples(
    st.sampled_from(("put", "remove", "ask", "ask")), st.sampled_from(ADDRESSES), ENTRIES
)


@settings(deadline=None, max_examples=200)
@given(st.lists(STEPS, min_size=5, max_size=80))
def test_the_cache_never_answers_otherwise_than_the_table(
    steps: list[tuple[str, Address, Entry]],
) -> None:
    # given one router that lives as long as the table (48 addresses crowd 64 records)
    tables = Tables()
    router = tables.router()

    for step, address, entry in steps:
        # when flows come, move, change owner and go
        path = pack_path(LOCAL, address[0], address[1])
        if step == "put":
            tables.flows.put(path, entry)
        elif step == "remove":
            tables.flows.remove(path)

        # then it says what a router without a cache says, of this address and of all others
        for asked in (address,) if step == "ask" else ADDRESSES:
            assert router.decide(RTP, asked) == tables.router().decide(RTP, asked)


def test_the_cache_is_bounded_and_its_end_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    # given room for 8 paths and 20 clients
    monkeypatch.setattr(route, "MAX_CACHED_PATHS", 8)
    tables = Tables()
    router = tables.router()
    clients: list[Address] = [("192.0.2.1", port) for port in range(1, 21)]
    paths = [flow_to(tables, client, Entry(0, 1, client[1], 0)) for client in clients]

    # when all of them speak, twice
    answers = [router.decide(RTP, client) for client in clients * 2]

    # then all are routed, and never more than 8 remembered
    assert answers == [to(0, 1, path) for path in paths] * 2
    assert 0 < len(router.cache) <= 8


def test_strangers_are_not_remembered() -> None:
    router = Tables().router()

    for port in range(1, 200):
        router.decide(RTP, ("198.51.100.1", port))

    assert not router.cache


def test_random_ufrags_never_reach_a_call() -> None:
    """Nor is anything remembered of them. A million: bench/attacks.py; the loop in C: test_fastpath."""
    # given 400 calls
    tables, rng = Tables(1024), random.Random(SEED)
    for number in range(400):
        tables.routes.put(rng.randbytes(10).hex().encode(), Entry(0, 1, number, 0))
    before = [bytes(part) for part in tables.memory]
    decide = tables.router().decide
    packet = check(bytes(20))
    head, tail = packet.split(bytes(20))
    names = rng.randbytes(20 * 10_000)

    # when somebody guesses
    found = Counter(
        decide(head + names[at : at + 20] + tail, CLIENT)
        for _ in range(10)
        for at in range(rng.randrange(20), len(names) - 20, 20)
    )

    # then nothing goes further
    assert found.total() >= 99_000
    assert set(found) == {RelayCounter.DROPPED_UNKNOWN_UFRAG}, f"seed {SEED}"
    assert [bytes(part) for part in tables.memory] == before
