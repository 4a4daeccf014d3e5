"""Counters: one block a process, no overlap, figures that stay when another takes the block over."""

import os
from enum import IntEnum

import pytest

from voicerelay.shm.counters import (
    BLOCK_BYTES,
    BLOCKS,
    COUNTERS_BYTES,
    FIRST_COUNTER,
    HEARTBEAT_NS,
    MAX_RELAYS,
    MAX_TRANSCEIVERS,
    WORDS,
    Block,
    ControlCounter,
    Counters,
    RelayCounter,
    TransceiverCounter,
)


def counters() -> Counters:
    return Counters(memoryview(bytearray(COUNTERS_BYTES)))


def every_block(found: Counters) -> list[Block]:
    return [
        found.control(),
        *(found.relay(index) for index in range(MAX_RELAYS)),
        *(found.transceiver(slot) for slot in range(MAX_TRANSCEIVERS)),
    ]


def test_no_two_processes_share_a_word() -> None:
    # given every block, each filled with a number of its own
    found = counters()
    blocks = every_block(found)

    for number, block in enumerate(blocks):
        for word in range(WORDS):
            block.words[word] = number

    assert len(blocks) == BLOCKS
    for number, block in enumerate(blocks):
        assert set(block.words) == {number}


@pytest.mark.parametrize("index", [-1, MAX_RELAYS])
def test_a_relay_beyond_the_limit_has_no_block(index: int) -> None:
    with pytest.raises(ValueError, match="relay index"):
        counters().relay(index)


@pytest.mark.parametrize("slot", [-1, MAX_TRANSCEIVERS])
def test_a_transceiver_beyond_the_limit_has_no_block(slot: int) -> None:
    with pytest.raises(ValueError, match="transceiver slot"):
        counters().transceiver(slot)


def test_claiming_a_block_starts_it_afresh() -> None:
    # given a block that another process has used
    block = counters().relay(3)
    block.add(RelayCounter.PACKETS_RECEIVED, 7)

    block.claim(generation=9)

    assert block.get(RelayCounter.PACKETS_RECEIVED) == 0
    assert (block.pid, block.generation) == (os.getpid(), 9)
    assert 0 < block.started_ns <= block.heartbeat_ns


def test_owning_a_block_keeps_its_figures() -> None:
    # given a block of a process that control took for gone
    block = counters().transceiver(3)
    block.claim(generation=9)
    block.add(TransceiverCounter.PACKETS_SENT, 7)
    block.clear()

    block.own()

    assert block.pid == os.getpid()
    assert block.generation == 9
    assert block.get(TransceiverCounter.PACKETS_SENT) == 7


def test_a_beat_moves_the_heartbeat() -> None:
    block = counters().control()
    block.words[HEARTBEAT_NS] = 1

    block.beat()

    assert block.heartbeat_ns > 1


def test_counters_add_and_set() -> None:
    block = counters().control()

    block.add(ControlCounter.SOCKETS_ADOPTED)
    block.add(ControlCounter.SOCKETS_ADOPTED, 4)
    block.set(ControlCounter.PEERS, 3)

    assert block.get(ControlCounter.SOCKETS_ADOPTED) == 5
    assert block.get(ControlCounter.PEERS) == 3


def test_only_blocks_in_use_are_listed() -> None:
    found = counters()
    for index in (0, 5):
        found.relay(index).claim()
    found.transceiver(MAX_TRANSCEIVERS - 1).claim()
    found.relay(5).clear()

    assert [index for index, _ in found.relays()] == [0]
    assert [slot for slot, _ in found.transceivers()] == [MAX_TRANSCEIVERS - 1]


@pytest.mark.parametrize("names", [RelayCounter, TransceiverCounter, ControlCounter])
def test_every_counter_has_a_word_of_its_own(names: type[IntEnum]) -> None:
    words = [member.value for member in names.__members__.values()]

    assert len(set(words)) == len(words)
    assert min(words) >= FIRST_COUNTER
    assert max(words) < WORDS


def test_the_segment_has_a_block_for_everybody() -> None:
    assert BLOCKS == 1 + MAX_RELAYS + MAX_TRANSCEIVERS
    assert COUNTERS_BYTES == BLOCKS * BLOCK_BYTES


def test_a_released_segment_can_be_closed() -> None:
    # given a buffer that only the counters look at
    buffer = bytearray(COUNTERS_BYTES)
    view = memoryview(buffer)
    found = Counters(view)

    found.release()
    view.release()

    buffer.clear()  # raises BufferError while anybody looks at it
