"""Totals that go on when processes are replaced."""

from hypothesis import given
from hypothesis import strategies as st

from voicerelay.cli.admin.totals import Totals


def test_a_successor_counts_on_where_its_predecessor_was() -> None:
    totals = Totals()
    totals.note("packets", 0, "first", 100)
    totals.note("packets", 1, "other", 7)

    totals.note("packets", 0, "second", 3)

    assert totals.of("packets") == {0: 103, 1: 7}
    assert totals.sum("packets") == 110
    assert totals.sum("nothing") == 0


def test_who_is_gone_stays_counted() -> None:
    totals = Totals()
    totals.note("packets", 5, "life", 4)

    assert totals.of("packets") == {5: 4}
    assert totals.names() == ["packets"]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 100))))
def test_whatever_processes_count_a_total_never_goes_back(
    looks: list[tuple[int, int, int]],
) -> None:
    totals, before = Totals(), 0.0

    for owner, life, value in looks:
        totals.note("x", owner, life, value)
        assert totals.sum("x") >= before
        before = totals.sum("x")
