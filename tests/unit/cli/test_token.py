"""`voicerelay token`: what it prints calls, and what it cannot make is one line."""

import re
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from voicerelay.cli.errors import UserError
from voicerelay.cli.main import main
from voicerelay.cli.token import parse_ttl
from voicerelay.transceiver.signalling.keys import Keys

FILE = "web:web-key-0123456789\nphones:phones-key-0123456789\n"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(FILE)
    return path


def token(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["token", *arguments])


def test_a_token_is_printed_and_nothing_else(keys: Path) -> None:
    options = ["--ttl", "1h", "--key", "phones", "--sub", "alice", "--max-sessions", "3"]

    result = token("--api-key-file", str(keys), *options)

    assert (result.exit_code, result.stderr) == (0, "")
    assert re.fullmatch(r"vr1\.[\w.-]+\n", result.stdout)
    now = time.time()
    caller = Keys.parse(FILE).caller(result.stdout.strip(), now)
    assert (caller.key, caller.subject, caller.max_sessions) == ("phones", "alice", 3)
    assert not caller.expired
    assert Keys.parse(FILE).caller(result.stdout.strip(), now + 3601).expired


def test_the_file_may_come_from_the_environment(
    keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOICERELAY_API_KEY_FILE", str(keys))

    assert Keys.parse(FILE).caller(token().stdout.strip(), time.time()).key == "web"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--ttl", "soon"],
        ["--ttl", "0"],
        ["--ttl", "31d"],
        ["--key", "nobody"],
        ["--sub", "two words"],
        ["--max-sessions", "-1"],
        ["--api-key-file", "/no/such/file"],
        ["--no-such-option"],
    ],
)
def test_what_cannot_be_made_is_one_line(keys: Path, arguments: list[str]) -> None:
    result = token("--api-key-file", str(keys), *arguments)

    assert result.exit_code == 2
    assert result.stderr.startswith("voicerelay: error: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_without_a_file_there_is_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VOICERELAY_API_KEY_FILE", raising=False)

    assert token().exit_code == 2


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("12h", 43200), ("7d", 604800)]
)
def test_times_have_units(text: str, seconds: int) -> None:
    assert parse_ttl(text) == seconds


def test_a_time_without_sense_is_refused() -> None:
    for text in ("", "m", "1.5h", "-1s", "1 h", "10m30s"):
        with pytest.raises(UserError):
            parse_ttl(text)
