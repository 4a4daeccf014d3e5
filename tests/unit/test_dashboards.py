"""The dashboard and the alert rules ask for metrics, labels and reasons that there are."""

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.cli.admin.looks import look
from voicerelay.cli.admin.metrics import Metrics

DOCS = Path(__file__).parents[2] / "docs"
OUTSIDE = {"instance"}  # labels that the scraper adds


def expressions(name: str) -> list[str]:
    text = (DOCS / name).read_text()
    if name.endswith(".json"):
        board = json.loads(text)
        found = [t["expr"] for panel in board["panels"] for t in panel["targets"]]
        return [*found, *(v["query"] for v in board["templating"]["list"] if v["type"] == "query")]
    return re.findall(r"^\s+expr: (.+)$", text, re.MULTILINE)


def series() -> dict[str, dict[str, set[str]]]:
    """Sample name -> label -> values."""
    made: dict[str, dict[str, set[str]]] = {}
    text = Metrics().render(look())[0].decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = made.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return made


@pytest.mark.parametrize("name", ["grafana.json", "alerts.yml"])
def test_every_metric_and_label_that_is_asked_for_exists(name: str) -> None:
    known = series()
    found = expressions(name)

    assert len(found) > 10
    for expression in found:
        names = re.findall(r"\bvoicerelay_\w+", expression)
        assert names
        assert set(names) <= set(known), expression
        labels = {label for metric in names for label in known[metric]} | OUTSIDE
        for listed in re.findall(r"by \(([^)]*)\)", expression):
            assert set(re.split(r",\s*", listed)) <= labels, expression
        for metric, label, value in re.findall(
            r'(voicerelay_\w+)\{[^}]*?(\w+)="([^"$]+)"', expression
        ):
            assert value in known[metric][label], expression


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels = json.loads((DOCS / "grafana.json").read_text())["panels"]

    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for where in (panel["gridPos"] for panel in panels)
        for x in range(where["x"], where["x"] + where["w"])
        for y in range(where["y"], where["y"] + where["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
