"""voicerelay init writes what a start needs, and nothing over what is there."""

import ast
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from voicerelay.cli.configfile import read_config_file
from voicerelay.cli.main import main

FILES = {"agent.py", "voicerelay.toml", "README.md"}


def init(directory: Path) -> Result:
    return CliRunner().invoke(main, ["init", str(directory)])


def test_a_directory_is_made_with_all_that_is_needed(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "agent"

    result = init(directory)

    assert (result.exit_code, result.stderr) == (0, "")
    assert {path.name for path in directory.iterdir()} == FILES
    file = read_config_file(directory / "voicerelay.toml")
    assert (file.values, file.faults) == ({"app": "agent:app"}, [])
    ast.parse((directory / "agent.py").read_text())
    assert f"cd {directory} && voicerelay dev" in result.stdout


@pytest.mark.parametrize("name", sorted(FILES))
def test_nothing_is_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")

    result = init(tmp_path)

    assert result.exit_code == 2
    assert f"has {name} already" in result.stderr
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_a_directory_that_cannot_be_is_one_line() -> None:
    result = init(Path("/proc/no/such"))

    assert result.exit_code == 2
    assert result.stderr.startswith("voicerelay: error: cannot write into /proc/no/such: ")
    assert result.stderr.count("\n") == 1
