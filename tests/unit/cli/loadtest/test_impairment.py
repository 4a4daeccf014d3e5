"""A bad network: shares and bounds as asked for, the same for the same seed, nothing without need."""

import pytest

from voicerelay.cli.loadtest.impairment import Fate, Impairment


def test_a_clean_network_touches_nothing() -> None:
    fate = Fate(Impairment(), "1")

    assert [fate.out() for _ in range(100)] == [0.0] * 100
    assert all(fate.arrives() for _ in range(100))
    assert fate.next_rebind_s() is None


def test_the_share_asked_for_is_lost_each_way() -> None:
    fate = Fate(Impairment(loss=0.1), "1")

    assert sum(fate.out() is None for _ in range(10_000)) == pytest.approx(1000, rel=0.1)
    assert sum(not fate.arrives() for _ in range(10_000)) == pytest.approx(1000, rel=0.1)


def test_jitter_stays_below_what_was_asked_for() -> None:
    fate = Fate(Impairment(jitter_s=0.03), "1")

    waits = [wait for _ in range(1000) if (wait := fate.out()) is not None]

    assert len(waits) == 1000
    assert 0 <= min(waits) < 0.005
    assert 0.025 < max(waits) <= 0.03


def test_ports_change_about_as_often_as_asked_for() -> None:
    fate = Fate(Impairment(rebind_s=10), "1")

    assert all(5 <= (fate.next_rebind_s() or 0) <= 15 for _ in range(100))


def test_a_seed_decides_and_the_ways_do_not_disturb_each_other() -> None:
    one, same, other = (Fate(Impairment(loss=0.3), seed) for seed in ("1", "1", "2"))
    same.arrives()

    first = [one.out() for _ in range(50)]

    assert first == [same.out() for _ in range(50)]
    assert first != [other.out() for _ in range(50)]
