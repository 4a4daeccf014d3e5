"""--fail-if: what is read, what is refused and by which name, what makes a test fail."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicerelay.cli.loadtest.thresholds import (
    MAX_EXPRESSION_CHARS,
    BadThreshold,
    Threshold,
    UnknownMetric,
    parse_threshold,
)

KNOWN = ("dropped", "setup_p99")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("setup_p99>0.5", Threshold("setup_p99", ">", 0.5)),
        (" dropped != 0 ", Threshold("dropped", "!=", 0)),
        ("dropped>=10", Threshold("dropped", ">=", 10)),
    ],
)
def test_expressions_are_read(text: str, expected: Threshold) -> None:
    assert parse_threshold(text, KNOWN) == expected


@pytest.mark.parametrize(
    "text",
    ["", "dropped", "dropped>", ">1", "dropped=1", "dropped=>1", "dropped>1 or 1", "dropped>-1",
     "dropped>nan", "dropped>1e9", "dropped>0x1", "__import__('os')", "Dropped>1", "dropped>" + "1" * 100],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(BadThreshold, match=r"is not METRIC>NUMBER"):
        parse_threshold(text, KNOWN)


def test_an_unknown_metric_has_an_error_of_its_own_that_names_the_known() -> None:
    with pytest.raises(UnknownMetric, match="dropped, setup_p99"):
        parse_threshold("setup_p98>1", KNOWN)


@given(st.text())
def test_whatever_comes_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(BadThreshold):
        assert parse_threshold(text, KNOWN).metric in KNOWN


def test_the_length_is_bounded() -> None:
    text = "dropped>1" + " " * (MAX_EXPRESSION_CHARS - 9)

    assert parse_threshold(text, KNOWN).value == 1
    with pytest.raises(BadThreshold):
        parse_threshold(text + " ", KNOWN)


@pytest.mark.parametrize(
    ("text", "fails"),
    [
        ("dropped>2", True), ("dropped>3", False), ("dropped>=3", True), ("dropped<3", False),
        ("dropped<=3", True), ("dropped==3", True), ("dropped!=3", False),
    ],
)  # fmt: skip
def test_a_condition_that_holds_is_an_objection(text: str, fails: bool) -> None:
    objection = parse_threshold(text, KNOWN).objection({"dropped": 3.0})

    assert bool(objection) is fails
    assert not fails or objection == f"{text}: dropped is 3"


def test_what_was_not_measured_fails() -> None:
    assert "not measured" in parse_threshold("setup_p99>1", KNOWN).objection({"setup_p99": None})
    assert "not measured" in parse_threshold("setup_p99>1", KNOWN).objection({})
