"""Options made of the table: each setting has one, with its variable; commands find their instance."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from voicerelay.cli.configfile import FILE_NAME
from voicerelay.cli.main import main
from voicerelay.cli.settings import SETTINGS, Setting


@pytest.mark.parametrize("command", ["start", "check-config", "print-config"])
def test_every_setting_has_its_parameter(command: str) -> None:
    found = {parameter.name: parameter for parameter in main.commands[command].params}

    for setting in SETTINGS:
        parameter = found[setting.field]
        assert parameter.envvar == setting.variable
        if isinstance(parameter, click.Option):
            assert f"--{setting.name}" in parameter.opts
            assert (f"--no-{setting.name}" in parameter.secondary_opts) == (setting.kind is bool)
    assert found["config_file"].envvar == "VOICERELAY_CONFIG"


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.kind is bool], ids=lambda s: s.name)
def test_a_switch_of_the_file_can_be_turned_off(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = setting.name
    Path(FILE_NAME).write_text(f'{name} = true\nbackend = "ws://brain.example/"\n')

    shown = CliRunner().invoke(main, ["print-config", f"--no-{name}"]).stdout

    assert [line.split()[1:] for line in shown.splitlines() if line.split()[0] == name] == [
        ["false", "flag"]
    ]


@pytest.mark.parametrize(
    ("arguments", "variables", "looked_in"),
    [
        ([], {}, "/file"),
        ([], {"VOICERELAY_RUN_DIR": "/variable"}, "/variable"),
        (["--run-dir", "/flag"], {"VOICERELAY_RUN_DIR": "/variable"}, "/flag"),
        (["--port", "47"], {"VOICERELAY_RUN_DIR": "/variable"}, "/47"),
        (["--config", "other.toml"], {}, "/46"),
        ([], {"VOICERELAY_PORT": "45"}, "/45"),
    ],
    ids=range(6),
)
def test_a_command_looks_at_the_instance_that_start_would_make(
    arguments: list[str],
    variables: dict[str, str],
    looked_in: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("VOICERELAY_PORT", "VOICERELAY_RUN_DIR", "VOICERELAY_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    Path(FILE_NAME).write_text('run-dir = "/file"\n')
    Path("other.toml").write_text("port = 46\n")

    result = CliRunner().invoke(main, ["status", *arguments], env=variables)

    assert f"{looked_in};" in result.stderr


def test_a_token_is_made_with_the_key_file_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VOICERELAY_API_KEY_FILE", raising=False)
    (tmp_path / "keys").write_text("web:web-key-0123456789\n")
    Path(FILE_NAME).write_text('api-key-file = "keys"\n')

    assert CliRunner().invoke(main, ["token"]).stdout.startswith("vr1.")
