"""The page stands alone: nothing to load, nothing that runs, nothing unescaped."""

import re

import pytest

from tests.support.measured import nothing, ten_calls
from voicerelay.cli.loadtest.fleet import Measured
from voicerelay.cli.loadtest.metrics import metrics_of
from voicerelay.cli.loadtest.page import as_html


def page(measured: Measured, *failures: str) -> str:
    return as_html(measured, metrics_of(measured), failures)


@pytest.mark.parametrize("measured", [ten_calls(), nothing()], ids=["calls", "none"])
def test_it_loads_and_runs_nothing(measured: Measured) -> None:
    html = page(measured)

    assert not re.search(r"<(script|link|img|iframe)|\b(src|href|onload)=|url\(|@import", html)
    assert html.count("<svg") == html.count("</svg>") == 6


def test_it_shows_what_counts() -> None:
    html = page(ten_calls(), "dropped>0: dropped is 1")

    for text in (
        "10 voice calls",
        "98.00%",
        "dropped&gt;0: dropped is 1",
        "1 (1 ended by the server)",
    ):
        assert text in html


def test_what_the_server_said_is_escaped() -> None:
    assert "<server_full>" not in page(nothing())
