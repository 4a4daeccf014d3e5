"""check-config tells each fault, print-config tells what counts and where it comes from."""

import json
import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from voicerelay.cli.configfile import FILE_NAME, render_toml
from voicerelay.cli.main import main
from voicerelay.cli.settings import SETTINGS

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without anything, and no variables."""
    for name in [name for name in os.environ if name.startswith("VOICERELAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])  # importing APP puts this directory there
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_what_could_start_is_ok(here: Path) -> None:
    (here / FILE_NAME).write_text('listen = "127.0.0.1"\n')

    result = run("check-config")

    assert (result.exit_code, result.stdout, result.stderr) == (0, "ok (voicerelay.toml)\n", "")


def test_each_fault_is_a_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / FILE_NAME).write_text("prot = 1\nrelays = 0\n")
    monkeypatch.setenv("VOICERELAY_CAPACITY", "many")

    result = run("check-config", "--max-sessions", "0")

    assert result.exit_code == 2
    assert result.stdout == ""
    begins = [line.removeprefix("voicerelay: error: ") for line in result.stderr.splitlines()]
    assert [line[: line.index(": ")] for line in begins] == [
        "voicerelay.toml:1",
        "--capacity (VOICERELAY_CAPACITY)",
        "voicerelay.toml:2",
        "--max-sessions",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere:app"], 'no module "nowhere"'),
        (["--http", "0.0.0.0:8080"], "anybody could call"),
        (["--listen", "198.51.100.1.1"], "--listen"),
        (["--listen", "127.0.0.1", "--public-ip", "::", "--relays", "1"], "--public-ip"),
    ],
    ids=range(4),
)
def test_what_a_start_would_find_is_found(arguments: list[str], said: str) -> None:
    result = run("check-config", *arguments)

    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_broken_file_is_one_line(here: Path) -> None:
    (here / FILE_NAME).write_text("port =")

    for command in ("check-config", "print-config", "start", "status"):
        result = run(command)
        assert result.exit_code == 2
        assert result.stderr.startswith("voicerelay: error: voicerelay.toml: is not TOML")
        assert result.stderr.count("\n") == 1


def test_a_named_file_that_is_not_there_is_one_line() -> None:
    result = run("check-config", "--config", "mine.toml")

    assert result.exit_code == 2
    assert "--config: mine.toml cannot be read" in result.stderr


def test_values_are_shown_with_their_sources(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "mine.toml").write_text("\nrelays = 3\nport = 1\n")
    monkeypatch.setenv("VOICERELAY_CONFIG", "mine.toml")
    monkeypatch.setenv("VOICERELAY_PORT", "4000")

    text = run("print-config", "--no-pin").stdout
    shown = json.loads(run("print-config", "--no-pin", "--json").stdout)

    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in text.splitlines()}
    assert rows["relays"].split() == ["3", "mine.toml:2"]
    assert rows["port"].split() == ["4000", "env", "VOICERELAY_PORT"]
    assert list(rows) == list(shown) == [setting.name for setting in SETTINGS]
    assert shown["pin"] == {"value": False, "source": "flag"}
    assert shown["relays"] == {"value": 3, "source": "mine.toml:2"}
    assert shown["run-dir"]["value"].endswith("/4000")


def test_a_file_may_be_made_of_options(here: Path) -> None:
    made = run("print-config", "--toml", "--port", "4000", "--open", "--listen", "::1").stdout

    (here / FILE_NAME).write_text(made)
    shown = json.loads(run("print-config", "--json").stdout)

    given = {name: one["value"] for name, one in shown.items() if one["source"] != "default"}
    assert given == {"port": 4000, "open": True, "listen": ["::1"]}


def test_the_page_shows_the_file_that_is_written() -> None:
    assert f"```toml\n{render_toml({}).rstrip()}\n```" in PAGE.read_text()
