"""Records and their owners: void at once, removed little by little, never what somebody took over."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from voicerelay.control import records as module
from voicerelay.control.records import Owner, Records
from voicerelay.shm.table import KEY_BYTES, RECORD_BYTES, Entry, TableFull, TableWriter

CAPACITY = 4
KEYS = [bytes([number]) * KEY_BYTES for number in range(8)]
ALICE, BOB = (0, 1), (1, 2)
OWNERS = [ALICE, BOB, (0, 3)]


class Memory:
    """The bytes of one table, which outlive the control that writes them."""

    def __init__(self) -> None:
        self.records = bytearray(2 * CAPACITY * RECORD_BYTES)
        self.epoch = bytearray(4)

    def open(self) -> Records:
        views = memoryview(self.records), memoryview(self.epoch)
        return Records(TableWriter(*views, CAPACITY))


def entry(owner: Owner, session: int = 1) -> Entry:
    return Entry(*owner, session, 0)


def standing(records: Records) -> dict[bytes, Entry]:
    return dict(records.table.items())


def test_what_the_dead_owned_is_void_at_once_and_goes_in_slices() -> None:
    # given three records of one owner and one of another
    records = Memory().open()
    for key in KEYS[:3]:
        records.put(key, entry(ALICE))
    records.put(KEYS[3], entry(BOB))

    records.void_owner(ALICE)
    at_once = len(records), records.void, [records.holder(key) for key in KEYS[:4]]
    swept = [records.sweep(2) for _ in range(3)]

    assert at_once == (1, 3, [None, None, None, entry(BOB)])
    assert swept == [2, 1, 0]
    assert standing(records) == {KEYS[3]: entry(BOB)}
    assert (len(records), records.void) == (1, 0)


def test_what_was_taken_over_is_not_swept() -> None:
    records = Memory().open()
    records.put(KEYS[0], entry(ALICE))
    records.void_owner(ALICE)

    records.put(KEYS[0], entry(BOB))

    assert records.sweep(10) == 0
    assert records.holder(KEYS[0]) == entry(BOB)


def test_a_void_record_makes_room_for_a_new_one_and_a_living_one_does_not() -> None:
    # given a full table with one void record
    records = Memory().open()
    for key in KEYS[: CAPACITY - 1]:
        records.put(key, entry(BOB))
    records.put(KEYS[CAPACITY - 1], entry(ALICE))
    records.void_owner(ALICE)

    records.put(KEYS[CAPACITY], entry(BOB))
    with pytest.raises(TableFull):
        records.put(KEYS[CAPACITY + 1], entry(BOB))

    assert standing(records) == {key: entry(BOB) for key in (*KEYS[: CAPACITY - 1], KEYS[CAPACITY])}


def test_a_void_record_cannot_be_removed_by_its_former_owner() -> None:
    records = Memory().open()
    records.put(KEYS[0], entry(ALICE))
    records.void_owner(ALICE)

    records.remove(ALICE, KEYS[0])

    assert records.void == 1


def test_only_a_record_of_this_owner_and_session_is_removed() -> None:
    records = Memory().open()
    records.put(KEYS[0], entry(ALICE, session=5))

    records.remove(BOB, KEYS[0])
    records.remove(ALICE, KEYS[0], session=6)
    kept = records.holder(KEYS[0])
    records.remove(ALICE, KEYS[0], session=5)

    assert kept == entry(ALICE, 5)
    assert records.holder(KEYS[0]) is None


def test_records_found_at_the_start_are_unclaimed_until_they_are_put_again() -> None:
    # given the table of an earlier control
    memory = Memory()
    earlier = memory.open()
    for key in KEYS[:2]:
        earlier.put(key, entry(ALICE))
    earlier.put(KEYS[2], entry(BOB))

    records = memory.open()
    waiting = records.unclaimed_but_by([BOB])
    records.put(KEYS[0], entry(ALICE))
    records.void_unclaimed(ALICE)

    assert waiting == {ALICE}
    assert (len(records), records.void) == (2, 1)
    assert [records.holder(key) for key in KEYS[:3]] == [entry(ALICE), None, entry(BOB)]


def test_a_long_look_at_the_start_gives_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROGRESS_RECORDS", 2)
    memory = Memory()
    earlier = memory.open()
    for key in KEYS[:CAPACITY]:
        earlier.put(key, entry(ALICE))
    signs: list[None] = []

    Records(earlier.table, lambda: signs.append(None))

    assert len(signs) == CAPACITY // 2


class AgainstDict(RuleBasedStateMachine):
    """Everything that may happen to a small table, with the living records as the model."""

    @initialize()
    def begin(self) -> None:
        self.memory = Memory()
        self.records = self.memory.open()
        self.model: dict[bytes, Entry] = {}
        self.unclaimed: set[bytes] = set()

    @rule(key=st.sampled_from(KEYS), owner=st.sampled_from(OWNERS), session=st.integers(1, 2))
    def put(self, key: bytes, owner: Owner, session: int) -> None:
        if key in self.model or len(self.model) < CAPACITY:
            self.records.put(key, entry(owner, session))
            self.model[key] = entry(owner, session)
            self.unclaimed.discard(key)
        else:
            with pytest.raises(TableFull):
                self.records.put(key, entry(owner, session))

    @rule(key=st.sampled_from(KEYS), owner=st.sampled_from(OWNERS), session=st.integers(1, 2))
    def remove(self, key: bytes, owner: Owner, session: int) -> None:
        self.records.remove(owner, key, session)
        if self.model.get(key) == entry(owner, session):
            del self.model[key]
            self.unclaimed.discard(key)

    @rule(owner=st.sampled_from(OWNERS))
    def die(self, owner: Owner) -> None:
        self.records.void_owner(owner)
        self.forget({key for key, held in self.model.items() if held.owner == owner})

    @rule(owner=st.sampled_from(OWNERS))
    def have_replayed(self, owner: Owner) -> None:
        self.records.void_unclaimed(owner)
        self.forget({key for key in self.unclaimed if self.model[key].owner == owner})

    @rule(limit=st.integers(0, 3))
    def sweep(self, limit: int) -> None:
        before = self.records.void

        assert self.records.sweep(limit) == min(limit, before)

    @rule()
    def restart(self) -> None:
        """The next control takes what is void for unclaimed; here nobody comes back for it."""
        while self.records.sweep(2):
            pass
        self.records = self.memory.open()
        self.unclaimed = set(self.model)

    def forget(self, keys: set[bytes]) -> None:
        self.unclaimed -= keys
        for key in keys:
            del self.model[key]

    @invariant()
    def the_living_have_what_the_model_says(self) -> None:
        held = {key: self.records.holder(key) for key in KEYS}
        assert {key: found for key, found in held.items() if found} == self.model
        assert len(self.records) == len(self.model)
        assert len(standing(self.records)) == len(self.records) + self.records.void <= CAPACITY
        assert self.records.unclaimed_but_by([]) >= {
            self.model[key].owner for key in self.unclaimed
        }


def test_records_follow_the_model() -> None:
    run_state_machine_as_test(
        AgainstDict, settings=settings(deadline=None, max_examples=80, stateful_step_count=40)
    )
