"""A transceiver stays on the core of its slot; its workers may go anywhere."""

import os
from collections.abc import Iterator

import pytest

import voicerelay
from voicerelay.transceiver.affinity import pin


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, before)


def test_each_slot_has_a_core_and_they_are_given_out_in_turn() -> None:
    allowed = sorted(os.sched_getaffinity(0))

    for slot in range(2 * len(allowed)):
        core = pin(slot)

        assert core == allowed[slot % len(allowed)]
        assert os.sched_getaffinity(0) == {core}
        os.sched_setaffinity(0, allowed)


def test_a_worker_is_let_go() -> None:
    before = os.sched_getaffinity(0)
    pin(0)

    voicerelay.unpin()

    assert os.sched_getaffinity(0) >= before
