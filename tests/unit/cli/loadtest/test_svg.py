"""Plots are well-formed SVG that stays in its frame, whatever the figures."""

from xml.etree import ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from voicerelay.cli.loadtest.svg import HEIGHT, MAX_POINTS, WIDTH, Line, chart

numbers = st.floats(0, 1e9)


def corners(svg: str) -> list[tuple[float, float]]:
    return [
        (float(x), float(y))
        for line in ET.fromstring(svg).iter("polyline")
        for x, y in (pair.split(",") for pair in line.attrib["points"].split())
    ]


@given(st.lists(st.tuples(numbers, numbers)), st.booleans())
def test_whatever_the_figures_it_stays_in_its_frame(
    points: list[tuple[float, float]], log_x: bool
) -> None:
    svg = chart("title", [Line("one", points)], "x", log_x=log_x)

    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in corners(svg))


def test_more_is_higher_and_later_is_further_right() -> None:
    found = corners(chart("t", [Line("one", [(0, 0), (1, 1), (2, 5)])], "x"))

    assert [x for x, _ in found] == sorted(x for x, _ in found)
    assert [y for _, y in found] == sorted((y for _, y in found), reverse=True)


def test_without_figures_it_says_so() -> None:
    assert "not measured" in chart("t", [Line("one", [])], "x")
    assert "not measured" in chart("t", [Line("one", [(0.0, 1.0)])], "x", log_x=True)


def test_words_are_escaped() -> None:
    svg = chart("<t>", [Line("a<b", [(0, 1)])], "x & y")

    assert "a<b" not in svg
    ET.fromstring(svg)


def test_long_lines_are_thinned() -> None:
    svg = chart("t", [Line("one", [(float(n), 1.0) for n in range(100_000)])], "x")

    assert len(corners(svg)) <= MAX_POINTS + 1
