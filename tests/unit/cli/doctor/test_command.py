"""`voicerelay doctor` as a command: its exit code is its verdict."""

import json

import pytest
from click.testing import CliRunner, Result

from voicerelay.cli.doctor import examine as module
from voicerelay.cli.doctor.command import parse_server
from voicerelay.cli.doctor.finding import Finding, fail, ok, warn
from voicerelay.cli.errors import UserError
from voicerelay.cli.main import main

FINE = [ok("clock", "ticks"), warn("cores", "few", "buy some")]


def run(monkeypatch: pytest.MonkeyPatch, findings: list[Finding], *arguments: str) -> Result:
    monkeypatch.setattr(module, "examine", lambda _config, _stun: findings)
    return CliRunner().invoke(main, ["doctor", *arguments])


def test_warnings_are_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(monkeypatch, FINE)

    assert (result.exit_code, "-> buy some" in result.stdout) == (0, True)


def test_one_failure_is_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(monkeypatch, [*FINE, fail("port", "in use", "ss")], "--json")

    told = json.loads(result.stdout)
    assert result.exit_code == 1
    assert told["counts"] == {"ok": 1, "warn": 1, "fail": 1}
    assert told["findings"][2] == {"name": "port", "state": "fail", "seen": "in use", "mend": "ss"}


@pytest.mark.parametrize("argument", ["--nonsense", "--stun=:1", "--stun=a:70000"])
def test_bad_usage_is_exit_code_2(monkeypatch: pytest.MonkeyPatch, argument: str) -> None:
    assert run(monkeypatch, FINE, argument).exit_code == 2


def test_a_stun_server_by_name_or_address() -> None:
    assert parse_server("stun.example:19302") == ("stun.example", 19302)
    assert parse_server("stun.example") == ("stun.example", 3478)
    assert parse_server("[2001:db8::1]:3478") == ("2001:db8::1", 3478)
    with pytest.raises(UserError, match="HOST:PORT"):
        parse_server("a:b:c")
