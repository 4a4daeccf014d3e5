"""The command line: bad usage is one line and exit code 2, before anything is called."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from voicerelay.cli.errors import UserError
from voicerelay.cli.loadtest.command import progress_line, read_key
from voicerelay.cli.main import main

URL = "http://127.0.0.1:9"


def loadtest(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["loadtest", *arguments])


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((URL, "--fail-if", "speed>1"), "there is no figure"),
        ((URL, "--fail-if", "dropped"), "is not METRIC>NUMBER"),
        ((URL, "--calls", "0"), "--calls"),
        ((URL, "--contract", "sip"), "--contract"),
        ((URL, "--key-file", "/no/such/file"), "--key-file"),
        ((URL, "--html", "/no/such/place/page.html"), "--html"),
        (("http://198.51.100.77",), "--allow-remote"),
        (("localhost",), "is no URL"),
        (("--run-dir", "/no/such/dir"), "no instance runs"),
    ],
)
def test_bad_usage_is_one_line(arguments: tuple[str, ...], why: str) -> None:
    result = loadtest(*arguments)

    assert result.exit_code == (3 if "--run-dir" in arguments else 2)
    assert result.stderr.startswith("voicerelay: error: ")
    assert why in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "text", ["key-0123456789abcdef\n", "# remark\n\nname:key-0123456789abcdef\nother:x\n"]
)
def test_the_first_key_of_a_file_is_used(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)

    assert read_key(path) == "key-0123456789abcdef"


@pytest.mark.parametrize("text", ["", "# only\n", "two words\n", "name:\n", "ключ\n"])
def test_a_file_without_a_key_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)

    with pytest.raises(UserError, match="--key-file"):
        read_key(path)


def test_progress_fits_a_line() -> None:
    sums = ("at_s", "up", "failed", "dropped", "frames", "late")

    line = progress_line(86_400, dict.fromkeys(sums, 99_999.0))

    assert len(line) < 100
    assert "99999 calls up" in line
