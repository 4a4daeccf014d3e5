"""`voicerelay top` as a command: needs a terminal, or is told to print."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from voicerelay.cli.top.command import top


@pytest.fixture(autouse=True)
def instance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voicerelay.cli.status.find_run_dir", lambda _run_dir, _port: Path("x"))


def test_without_a_terminal_it_says_what_to_do() -> None:
    result = CliRunner().invoke(top, [])

    assert (result.exit_code, "--once" in result.stderr) == (2, True)


def test_the_interval_has_bounds() -> None:
    assert CliRunner().invoke(top, ["--interval", "0.01", "--json"]).exit_code == 2
