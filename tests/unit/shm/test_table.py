"""The table: a dict in shared memory, whatever is put, overwritten and removed in whatever order."""

import random
import struct

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from voicerelay.shm.table import (
    DEAD,
    EMPTY,
    KEY_BYTES,
    MAX_PROBE,
    READ_RETRIES,
    RECORD_BYTES,
    USED,
    Entry,
    TableFull,
    TableReader,
    TableWriter,
    home_of,
)

KEYS = [bytes([number]) * KEY_BYTES for number in range(24)]
ENTRIES = st.builds(
    Entry,
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, (1 << 64) - 1),
)
STATE_AT = 10  # of a record


class Memory:
    """The bytes of one table, and readers and writers on them."""

    def __init__(self, records: int) -> None:
        self.records = bytearray(records * RECORD_BYTES)
        self.epoch = bytearray(4)
        self.capacity = records // 2

    def reader(self) -> TableReader:
        return TableReader(memoryview(self.records), memoryview(self.epoch))

    def writer(self) -> TableWriter:
        return TableWriter(memoryview(self.records), memoryview(self.epoch), self.capacity)

    def state(self, index: int) -> int:
        return self.records[index * RECORD_BYTES + STATE_AT]

    def break_off(self, index: int) -> None:
        """Leave a record as a writer killed in the middle of it does."""
        self.records[index * RECORD_BYTES] |= 1


def keys_at(home: int, records: int, count: int) -> list[bytes]:
    """Keys whose search begins at one and the same record."""
    source = random.Random(home)
    found: list[bytes] = []
    while len(found) < count:
        key = source.randbytes(KEY_BYTES)
        if home_of(key, records - 1) == home:
            found.append(key)
    return found


class AgainstDict(RuleBasedStateMachine):
    """Tables so small that clusters collide and wrap round the end all the time."""

    @initialize(records=st.sampled_from((4, 8, 16)), wrapping=st.booleans())
    def begin(self, records: int, wrapping: bool) -> None:
        self.memory = Memory(records)
        self.table = self.memory.writer()
        self.model: dict[bytes, Entry] = {}
        last = keys_at(records - 1, records, 6) + keys_at(records - 2, records, 2)
        self.keys = last + KEYS[:2] if wrapping else KEYS

    @rule(which=st.integers(0, 23), entry=ENTRIES)
    def put(self, which: int, entry: Entry) -> None:
        key = self.keys[which % len(self.keys)]
        if key in self.model or len(self.model) < self.memory.capacity:
            self.table.put(key, entry)
            self.model[key] = entry
        else:
            with pytest.raises(TableFull):
                self.table.put(key, entry)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), entry=ENTRIES)
    def overwrite(self, data: st.DataObject, entry: Entry) -> None:
        key = data.draw(st.sampled_from(sorted(self.model)))
        self.table.put(key, entry)
        self.model[key] = entry

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.model)))
        assert self.table.remove(key)
        del self.model[key]

    @rule(which=st.integers(0, 23))
    def remove_what_may_be_absent(self, which: int) -> None:
        key = self.keys[which % len(self.keys)]
        assert self.table.remove(key) == (self.model.pop(key, None) is not None)

    @rule()
    def restart(self) -> None:
        self.table = self.memory.writer()

    @invariant()
    def reader_and_writer_agree_with_the_model(self) -> None:
        reader = self.memory.reader()
        for key in self.keys:
            assert reader.find(key) == self.table.find(key) == self.model.get(key)
            assert (key in self.table) == (key in self.model)
        assert dict(self.table.items()) == self.model
        assert len(self.table) == len(self.model)

    @invariant()
    def a_fresh_writer_finds_nothing_to_repair(self) -> None:
        before = bytes(self.memory.records), bytes(self.memory.epoch)

        fresh = self.memory.writer()

        assert fresh.repaired == 0
        assert dict(fresh.items()) == self.model
        assert (bytes(self.memory.records), bytes(self.memory.epoch)) == before


def test_a_table_behaves_like_a_dict() -> None:
    run_state_machine_as_test(
        AgainstDict, settings=settings(deadline=None, max_examples=80, stateful_step_count=40)
    )


def test_a_full_table_refuses_a_new_key_and_keeps_the_old_ones() -> None:
    # given a table at its capacity
    memory = Memory(16)
    table = memory.writer()
    for number, key in enumerate(KEYS[: memory.capacity]):
        table.put(key, Entry(number, 1, 1, 1))

    with pytest.raises(TableFull):
        table.put(KEYS[memory.capacity], Entry(99, 1, 1, 1))
    table.put(KEYS[0], Entry(50, 1, 1, 1))

    assert [table.find(key) for key in KEYS[1 : memory.capacity]] == [
        Entry(number, 1, 1, 1) for number in range(1, memory.capacity)
    ]
    assert table.find(KEYS[0]) == Entry(50, 1, 1, 1)
    assert table.find(KEYS[memory.capacity]) is None


def test_a_removal_makes_room_again() -> None:
    memory = Memory(4)
    table = memory.writer()
    table.put(KEYS[0], Entry(0, 1, 1, 1))
    table.put(KEYS[1], Entry(1, 1, 1, 1))

    table.remove(KEYS[0])
    table.put(KEYS[2], Entry(2, 1, 1, 1))

    assert {key for key, _ in table.items()} == {KEYS[1], KEYS[2]}


def test_as_many_keys_as_are_probed_may_share_a_home() -> None:
    # given MAX_PROBE + 1 keys that all begin at one record, in a table that has room
    records = 4 * MAX_PROBE
    keys = keys_at(records - 3, records, MAX_PROBE + 1)
    table = Memory(records).writer()

    for number, key in enumerate(keys[:-1]):
        table.put(key, Entry(number, 1, 1, 1))
    with pytest.raises(TableFull):
        table.put(keys[-1], Entry(0, 1, 1, 1))

    assert [table.find(key) for key in keys[:-1]] == [
        Entry(number, 1, 1, 1) for number in range(MAX_PROBE)
    ]
    assert keys[-1] not in table
    assert table.remove(keys[0])
    table.put(keys[-1], Entry(7, 1, 1, 1))
    assert table.find(keys[-1]) == Entry(7, 1, 1, 1)


@pytest.mark.parametrize("length", [0, KEY_BYTES - 1, KEY_BYTES + 1])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="key length"):
        Memory(4).writer().put(bytes(length), Entry(0, 1, 1, 1))


def test_a_table_is_at_most_half_full() -> None:
    memory = Memory(8)

    with pytest.raises(ValueError, match="half as many"):
        TableWriter(memoryview(memory.records), memoryview(memory.epoch), 5)


def test_a_located_entry_is_unchanged_until_it_is_written() -> None:
    # given an entry that a reader has located
    memory = Memory(8)
    table = memory.writer()
    table.put(KEYS[0], Entry(1, 2, 3, 4))
    reader = memory.reader()
    located = reader.locate(KEYS[0])
    assert located is not None

    held_before = reader.sequences[located[0]] == located[1]
    table.put(KEYS[0], Entry(1, 2, 3, 5))

    assert held_before
    assert reader.sequences[located[0]] != located[1]


def test_a_removed_entry_is_no_longer_the_located_one() -> None:
    memory = Memory(8)
    table = memory.writer()
    table.put(KEYS[0], Entry(1, 2, 3, 4))
    reader = memory.reader()
    located = reader.locate(KEYS[0])
    assert located is not None

    table.remove(KEYS[0])

    assert reader.sequences[located[0]] != located[1]


@pytest.mark.parametrize("broken", range(4))
def test_a_half_written_record_is_a_miss_and_hides_nobody(broken: int) -> None:
    # given four keys in one cluster round the end, one of them half-written
    memory = Memory(8)
    keys = keys_at(6, 8, 4)
    table = memory.writer()
    for number, key in enumerate(keys):
        table.put(key, Entry(number, 1, 1, 1))
    memory.break_off((6 + broken) & 7)

    found = [memory.reader().find(key) for key in keys]

    expected = [Entry(number, 1, 1, 1) for number in range(4)]
    assert found == [None if n == broken else entry for n, entry in enumerate(expected)]


@pytest.mark.parametrize("broken", range(4))
def test_a_half_written_record_is_repaired(broken: int) -> None:
    memory = Memory(8)
    keys = keys_at(6, 8, 4)
    table = memory.writer()
    for number, key in enumerate(keys):
        table.put(key, Entry(number, 1, 1, 1))
    memory.break_off((6 + broken) & 7)

    repaired = memory.writer()

    whole = {key: Entry(n, 1, 1, 1) for n, key in enumerate(keys) if n != broken}
    assert repaired.repaired == 1
    assert dict(repaired.items()) == whole
    assert {key: memory.reader().find(key) for key in whole} == whole
    assert {memory.state(index) for index in range(8)} == {EMPTY, USED}
    assert memory.writer().repaired == 0


def test_a_broken_repair_is_repaired() -> None:
    # given a record that a repair had marked when it was killed, in an odd epoch
    memory = Memory(8)
    memory.records[3 * RECORD_BYTES + STATE_AT] = DEAD
    struct.pack_into("<I", memory.epoch, 0, 5)

    repaired = memory.writer()

    assert repaired.repaired == 1
    assert memory.state(3) == EMPTY
    assert struct.unpack("<I", memory.epoch)[0] % 2 == 0


def test_a_reader_gives_up_on_an_epoch_that_stays_odd() -> None:
    # given a writer that died while it moved records
    memory = Memory(8)
    memory.writer().put(KEYS[0], Entry(1, 1, 1, 1))
    struct.pack_into("<I", memory.epoch, 0, 1)

    assert memory.reader().find(KEYS[0]) == Entry(1, 1, 1, 1)
    assert memory.reader().find(KEYS[1]) is None  # after READ_RETRIES looks, not never
    assert READ_RETRIES > 1


def test_a_sequence_number_wraps() -> None:
    # given a record at the end of its sequence numbers, and an epoch at its end
    memory = Memory(4)
    table = memory.writer()
    home = home_of(KEYS[0], 3)
    struct.pack_into("<I", memory.records, home * RECORD_BYTES, 0xFFFFFFFE)
    struct.pack_into("<I", memory.epoch, 0, 0xFFFFFFFE)

    table.put(KEYS[0], Entry(1, 1, 1, 1))
    found = memory.reader().find(KEYS[0])
    table.remove(KEYS[0])

    assert found == Entry(1, 1, 1, 1)
    assert memory.reader().find(KEYS[0]) is None
    assert memory.writer().repaired == 0
