"""What a person and what a program is told."""

import json

from tests.support.measured import nothing, ten_calls
from voicerelay.cli.loadtest.metrics import metrics_of
from voicerelay.cli.loadtest.report import as_json, as_text


def test_a_person_reads_counts_reasons_and_times() -> None:
    measured = ten_calls()

    text = as_text(measured, metrics_of(measured), ["dropped>0: dropped is 1"])

    for line in (
        "1 (1 ended by the server)",
        "3960 of 4000",
        "98.000%",
        "100.00% / 99.75%",
        "3 (3 unknown_flow)",
        "FAILED  dropped>0: dropped is 1",
    ):
        assert line in text


def test_what_was_not_measured_is_a_dash() -> None:
    measured = nothing()

    text = as_text(measured, metrics_of(measured), [])

    assert "2 (2 HTTP 503 <server_full>)" in text
    assert "- / - / -" in text
    assert "FAILED" not in text


def test_a_tool_that_was_late_itself_says_so() -> None:
    measured = ten_calls()
    measured.tally.lag.add(0.001)
    assert "This tool was" not in as_text(measured, metrics_of(measured), [])

    measured.tally.lag.add(0.05)

    assert "This tool was itself 50" in as_text(measured, metrics_of(measured), [])


def test_a_program_finds_everything_under_its_name() -> None:
    measured = ten_calls()
    metrics = metrics_of(measured)

    told = json.loads(json.dumps(as_json(measured, metrics, ["x"])))

    assert told["metrics"] == metrics
    assert told["plan"]["calls"] == 10
    assert told["datagrams"]["sent"] == 4000
    assert told["server"]["dropped"] == {"unknown_flow": 3}
    assert told["failed_thresholds"] == ["x"]
    assert (told["dropped"], told["interrupted"]) == ({"ended by the server": 1}, False)


def test_the_plan_in_it_holds_no_key() -> None:
    measured = ten_calls()

    assert "key" not in as_json(measured, metrics_of(measured), [])["plan"]
