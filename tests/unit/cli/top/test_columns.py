"""Columns of `top`: figures in few characters, colours where somebody should look."""

import pytest

from tests.support.looks import sample, transceiver
from voicerelay.cli.top.columns import (
    BAD,
    NOTE,
    SESSIONS,
    TRANSCEIVERS,
    header,
    loss_style,
    ms,
    percent,
    rate,
    row,
    share,
    size,
)
from voicerelay.cli.top.snapshot import snapshot


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0, "0"), (999.4, "999"), (20_000, "20.0k"), (3e6, "3.0M")]
)
def test_rates_have_at_most_six_characters(value: float | None, text: str) -> None:
    assert rate(value) == text


def test_what_is_not_known_is_a_dash() -> None:
    assert {ms(None), share(None), size(None), percent(None)} == {"-"}
    assert (ms(3.14), ms(314.0), share(0.015)) == ("3.1", "314", "1.5%")
    assert (size(5 << 20), percent(12.3)) == ("5M", "12%")


@pytest.mark.parametrize(("loss", "style"), [(None, ""), (0.0, ""), (0.02, NOTE), (0.2, BAD)])
def test_loss_is_coloured(loss: float | None, style: str) -> None:
    assert loss_style(loss) == style


@pytest.mark.parametrize(
    ("figures", "text", "style"),
    [
        ({}, "1/200", ""),
        ({"draining": 1}, "1 left", NOTE),
        ({"overloaded": 1}, "1/200", BAD),
    ],
)
def test_a_transceiver_that_takes_no_calls_stands_out(
    figures: dict[str, int], text: str, style: str
) -> None:
    one = snapshot(sample(1.0, transceivers=[transceiver(0, **figures)]))["transceivers"][0]
    (calls,) = [column for column in TRANSCEIVERS if column.title == "calls"]

    assert (calls.show(one), calls.style(one)) == (text, style)


def test_columns_stand_below_their_titles_within_80_characters() -> None:
    one = snapshot(sample(1.0))["transceivers"][0]

    assert len(row(TRANSCEIVERS, one, 80)) == len(header(TRANSCEIVERS, 80)) <= 81
    assert len(header(SESSIONS, 80)) <= 81
    assert len(header(SESSIONS, 130)) > len(header(SESSIONS, 80))
