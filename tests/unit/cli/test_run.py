"""`voicerelay run`: what a process of a unit needs before it begins."""

from pathlib import Path

import pytest
from click import ClickException
from click.testing import CliRunner

from voicerelay.cli.errors import UserError
from voicerelay.cli.main import main
from voicerelay.cli.run import listen_hosts
from voicerelay.shm.rundir import INSTANCE_FILE


def test_the_listen_addresses_are_what_control_wrote_down(tmp_path: Path) -> None:
    (tmp_path / INSTANCE_FILE).write_text('{"listen": ["192.0.2.1", "::1"]}')

    assert listen_hosts(tmp_path) == ["192.0.2.1", "::1"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"listen": 1}', "\xff"])
def test_before_control_another_try_may_do(tmp_path: Path, text: str) -> None:
    (tmp_path / INSTANCE_FILE).write_bytes(text.encode("latin-1"))

    with pytest.raises(ClickException, match="control has not begun") as raised:
        listen_hosts(tmp_path)

    # so that systemd tries again, which it does not after an error in the configuration
    assert raised.value.exit_code != UserError.exit_code


def test_control_without_its_sockets_says_what_to_do(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["run", "control"], env={"VOICERELAY_RUN_DIR": str(tmp_path)})

    assert done.exit_code == UserError.exit_code
    assert "sockets for 0 relays" in done.output
    assert "voicerelay systemd install" in done.output


def test_admin_without_an_address_says_what_to_do(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["run", "admin"], env={"VOICERELAY_RUN_DIR": str(tmp_path)})

    assert done.exit_code == UserError.exit_code
    assert "no --admin; run `voicerelay systemd install`" in done.output


@pytest.mark.parametrize("arguments", [["supervisor"], ["relay", "-1"], ["relay", "x"]])
def test_an_unknown_process_is_refused(arguments: list[str]) -> None:
    assert CliRunner().invoke(main, ["run", *arguments]).exit_code == UserError.exit_code
