"""`voicerelay systemd`: what options, variables and the file say is what every unit is started with."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.system.conftest import steering_unavailable
from voicerelay.cli.main import main

PLAIN = ("--listen", "127.0.0.1", "--steering", "off")
SYSTEM = "systemd/system"
SERVICES = ("control", "relay@", "transceiver@")


def run(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, ["systemd", *arguments], env=env)


def installed(folder: Path, *options: str, env: dict[str, str] | None = None) -> dict[str, str]:
    """The text of every installed file, by its path below what stands for /etc."""
    done = run("install", "--dir", str(folder), *PLAIN, *options, env=env)
    assert done.exit_code == 0, done.output
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def environment(text: str) -> dict[str, str]:
    """Of a unit's processes."""
    (line,) = re.findall(r"^Environment=(.*)$", text, re.MULTILINE)
    words = re.findall(r'"([^"]*)"|(\S+)', line)
    return dict((quoted or plain).split("=", 1) for quoted, plain in words)


def test_install_writes_everything_where_systemd_looks(tmp_path: Path) -> None:
    files = installed(tmp_path)

    assert set(files) == {
        f"{SYSTEM}/voicerelay.target",
        *(f"{SYSTEM}/voicerelay-{name}.service" for name in SERVICES),
        f"{SYSTEM}/voicerelay-udp@.socket",
        "sysusers.d/voicerelay.conf",
        "tmpfiles.d/voicerelay.conf",
        "sysctl.d/60-voicerelay.conf",
    }


def test_an_admin_address_brings_a_unit_for_it(tmp_path: Path) -> None:
    files = installed(tmp_path, "--admin", "127.0.0.1:9090")

    unit = files[f"{SYSTEM}/voicerelay-admin.service"]
    assert environment(unit)["VOICERELAY_ADMIN"] == "127.0.0.1:9090"
    assert "Wants=voicerelay-admin.service\n" in files[f"{SYSTEM}/voicerelay.target"]


def test_print_shows_what_install_writes(tmp_path: Path) -> None:
    files = installed(tmp_path)

    shown = run("print", *PLAIN).output

    assert shown == "".join(f"### /etc/{place}\n{files[place]}\n" for place in _in_order(shown))


def _in_order(shown: str) -> list[str]:
    return re.findall(r"^### /etc/(.*)$", shown, re.MULTILINE)


def test_every_process_hears_what_options_and_variables_said(tmp_path: Path) -> None:
    file = tmp_path / "voicerelay.toml"
    file.write_text("relays = 3\nmax-sessions = 7\n")
    options = ("--config", str(file), "--listen", "::1", "--no-pin", "--transceivers", "1")

    files = installed(tmp_path / "etc", *options, env={"VOICERELAY_PORT": "4000"})

    for name in SERVICES:
        assert environment(files[f"{SYSTEM}/voicerelay-{name}.service"]) == {
            "PYTHONUNBUFFERED": "1",
            "VOICERELAY_CONFIG": str(file),
            "VOICERELAY_LISTEN": "127.0.0.1 ::1",
            "VOICERELAY_PIN": "False",
            "VOICERELAY_PORT": "4000",
            "VOICERELAY_RUN_DIR": "/run/voicerelay/4000",
            "VOICERELAY_STEERING": "off",
            "VOICERELAY_TRANSCEIVERS": "1",
        }
    assert "Wants=voicerelay-relay@2.service" in files[f"{SYSTEM}/voicerelay.target"]


def test_the_application_is_found_where_it_stands(tmp_path: Path) -> None:
    (tmp_path / "my.py").touch()

    files = installed(tmp_path / "etc", "my:app", "--app-dir", str(tmp_path))

    unit = files[f"{SYSTEM}/voicerelay-transceiver@.service"]
    assert f"WorkingDirectory={tmp_path}\n" in unit
    assert f"BindReadOnlyPaths={tmp_path}\n" in unit  # /tmp is hidden


@pytest.mark.parametrize("app", ["my:app", "my.agent:app", ":app", "", ".", "__main__:app"])
def test_an_application_that_is_not_there_is_refused(tmp_path: Path, app: str) -> None:
    done = run("print", *PLAIN, app, "--app-dir", str(tmp_path))

    assert (done.exit_code, "give --app-dir" in done.output) == (2, True), done.output


def test_an_application_that_is_installed_needs_no_directory(tmp_path: Path) -> None:
    assert run("print", *PLAIN, "json:app", "--app-dir", str(tmp_path)).exit_code == 0


def test_without_an_application_no_directory_is_shown(tmp_path: Path) -> None:
    unit = installed(tmp_path)[f"{SYSTEM}/voicerelay-transceiver@.service"]

    assert "WorkingDirectory=/\n" in unit
    assert str(Path.cwd() / "tests") not in unit


@pytest.mark.parametrize("run_dir", ["/tmp/vr", "/run"])
def test_a_run_directory_that_systemd_cannot_make_is_refused(run_dir: str) -> None:
    done = run("print", *PLAIN, "--run-dir", run_dir)

    assert (done.exit_code, "is not below /run" in done.output) == (2, True)


def test_a_directory_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "systemd").touch()

    done = run("install", "--dir", str(tmp_path), *PLAIN)

    assert done.exit_code == 2
    assert done.output.startswith(f"voicerelay: error: cannot write below {tmp_path}: ")


def test_steering_follows_what_this_kernel_can() -> None:
    possible = not steering_unavailable()

    shown = run("print", "--listen", "127.0.0.1", "--steering", "auto").output

    assert ("AmbientCapabilities=CAP_BPF" in shown) == possible
    assert ("units without kernel steering: " in shown) == (not possible)
