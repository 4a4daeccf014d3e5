"""The collector waits for a moment without calls, but not for ever."""

import gc
import weakref

import pytest

from voicerelay.transceiver.collector import MAX_GROWTH, MIN_BLOCKS, PATIENCE_S, Collector

SMALL, LARGE = MIN_BLOCKS // 10, 2 * MIN_BLOCKS


@pytest.mark.parametrize("blocks", [SMALL, LARGE])
def test_without_calls_it_looks_each_time(blocks: int) -> None:
    assert Collector(0.0, blocks).due(0.1, 0, blocks)


@pytest.mark.parametrize(
    ("before", "after", "waited_s", "due"),
    [
        (LARGE, MAX_GROWTH * LARGE + 1, PATIENCE_S, True),
        (LARGE, MAX_GROWTH * LARGE + 1, PATIENCE_S - 1, False),
        (LARGE, MAX_GROWTH * LARGE, PATIENCE_S, False),
        (SMALL, MIN_BLOCKS, PATIENCE_S, False),
        (SMALL, MIN_BLOCKS + 1, PATIENCE_S, True),
    ],
)
def test_calls_bear_it_only_when_memory_has_grown_and_seldom(
    before: int, after: float, waited_s: float, due: bool
) -> None:
    assert Collector(50.0, before).due(50.0 + waited_s, 1, int(after)) == due


def test_after_a_look_it_is_patient_again() -> None:
    collector = Collector(0.0, LARGE)

    collector.looked(PATIENCE_S, LARGE)

    assert not collector.due(PATIENCE_S + 1, 1, 10 * LARGE)


def test_a_look_finds_what_knows_itself() -> None:
    class Ring:
        def __init__(self) -> None:
            self.ring = self

    gc.disable()
    try:
        seen = weakref.ref(Ring())
        collector = Collector(0.0, SMALL)

        collector.look(1.0, 1)
        assert seen() is not None

        collector.look(2.0, 0)
        assert seen() is None
    finally:
        gc.enable()
