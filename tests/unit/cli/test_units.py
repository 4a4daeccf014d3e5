"""The units for a configuration: whole, safe to read for systemd, and as strict as they promise."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from string import Template
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import voicerelay.systemd
from voicerelay.cli.config import Config
from voicerelay.cli.errors import UserError
from voicerelay.cli.units import MAX_EXPOSURE, STORED_DESCRIPTORS, Plan, quote, reach, render

SERVICES = ("control", "relay@", "transceiver@", "admin")
ADMIN = "systemd/system/voicerelay-admin.service"
ANALYZE = shutil.which("systemd-analyze")
COMMAND = ["/opt/voicerelay/bin/python3", "-P", "-m", "voicerelay"]
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not here")


def plan(admin: str = "127.0.0.1:9090", **changes: Any) -> Plan:
    config = Config(
        app="voicerelay.echo:app",
        port=3478,
        listen=(),
        public_ip=(),
        http_host="127.0.0.1",
        http_port=8080,
        relays=2,
        transceivers=3,
        max_sessions=200,
        capacity=16_384,
        run_dir=Path("/run/voicerelay/3478"),
        log_level="info",
        admin=admin,
    )
    chosen: dict[str, Any] = {
        "hosts": ["192.0.2.1", "2001:db8::1"],
        "steered": False,
        "command": COMMAND,
    }
    return Plan(config=config, **(chosen | changes))


def lines(text: str, key: str) -> list[str]:
    """Every value of a key."""
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


def test_every_template_is_used_and_filled() -> None:
    files = render(plan())

    used = {Path(place).name for place in files}
    templates = {path.name for path in voicerelay.systemd.FOLDER.glob("voicerelay*")}
    assert templates <= used
    left = {name for text in files.values() for name in Template(text).get_identifiers()}
    assert left == {"MAINPID"}  # systemd fills that


def test_the_target_wants_every_process_and_socket() -> None:
    wanted = lines(render(plan())["systemd/system/voicerelay.target"], "Wants")

    assert wanted == [
        "voicerelay-udp@relay-0.socket",
        "voicerelay-udp@relay-1.socket",
        "voicerelay-control.service",
        "voicerelay-relay@0.service",
        "voicerelay-relay@1.service",
        "voicerelay-transceiver@0.service",
        "voicerelay-transceiver@1.service",
        "voicerelay-transceiver@2.service",
        "voicerelay-admin.service",
    ]


def test_a_socket_for_each_listen_address_waits_for_control() -> None:
    files = render(plan())
    unit = files["systemd/system/voicerelay-udp@.socket"]

    assert lines(unit, "ListenDatagram") == ["192.0.2.1:3478", "[2001:db8::1]:3478"]
    assert lines(unit, "Service") == ["voicerelay-control.service"]
    assert lines(unit, "FileDescriptorName") == ["%i"]
    (sockets,) = lines(files["systemd/system/voicerelay-control.service"], "Sockets")
    assert sockets.split() == [f"voicerelay-udp@relay-{i}.socket" for i in range(2)]


def test_with_steering_transceivers_have_sockets_and_control_one_capability() -> None:
    files = render(plan(steered=True))
    control = files["systemd/system/voicerelay-control.service"]

    assert lines(control, "Sockets")[0].count("transceiver-") == 3
    for key in ("CapabilityBoundingSet", "AmbientCapabilities"):
        assert lines(control, key) == ["CAP_BPF"]
    assert lines(control, "FileDescriptorStoreMax") == [str(STORED_DESCRIPTORS)]
    for other in ("relay@", "transceiver@"):
        assert "CAP_" not in files[f"systemd/system/voicerelay-{other}.service"]


def test_a_reload_lets_a_transceivers_calls_end() -> None:
    unit = render(plan())["systemd/system/voicerelay-transceiver@.service"]

    assert lines(unit, "ExecReload") == ["/bin/kill -s QUIT $MAINPID"]


def test_without_an_address_there_is_no_admin_unit() -> None:
    files = render(plan(admin=""))

    assert ADMIN not in files
    assert not [text for text in files.values() if "voicerelay-admin" in text]


def test_admin_on_loopback_speaks_with_this_machine_alone() -> None:
    private, public = (render(plan(admin=at))[ADMIN] for at in ("[::1]:9090", "192.0.2.1:9090"))

    assert (lines(private, "IPAddressDeny"), lines(private, "IPAddressAllow")) == (
        ["any"],
        ["localhost"],
    )
    assert not lines(public, "IPAddressDeny")


def test_control_and_admin_may_look_at_other_processes(units: Path) -> None:
    """See control/starvation.py: relays in user namespaces of their own would else be invisible."""
    for name in ("control", "admin"):
        unit = (units / f"voicerelay-{name}.service").read_text()

        assert lines(unit, "ProtectProc")[-1] == "default"
        assert not lines(unit, "ProcSubset")


def test_only_what_is_hidden_and_needed_is_shown() -> None:
    needed = ["/opt/x", "/root/.pyenv/versions/3", "/root/.pyenv/versions/3/lib", "/tmp/a b"]

    assert reach(map(Path, needed)).splitlines() == [
        "ProtectHome=tmpfs",
        "BindReadOnlyPaths=/root/.pyenv/versions/3",
        'BindReadOnlyPaths="/tmp/a b"',
    ]
    assert reach([Path("/opt/x")]) == "ProtectHome=yes"


@pytest.mark.parametrize("path", ["/root", "/home", "/home/alice", "/tmp"])
def test_a_whole_home_is_not_shown(path: str) -> None:
    with pytest.raises(UserError, match="a directory of its own"):
        reach([Path(path)])


@given(st.text())
def test_a_word_stays_one_word_or_is_refused(word: str) -> None:
    try:
        quoted = quote(word)
    except UserError:
        return

    assert quoted.strip('"').replace("%%", "%") == word
    assert quoted.isprintable()
    assert " " not in quoted or quoted.startswith('"')


def test_a_directory_of_the_application_may_have_spaces() -> None:
    unit = render(plan(app_dir=Path("/opt/my agent 100%")))

    directory = lines(unit["systemd/system/voicerelay-transceiver@.service"], "WorkingDirectory")
    assert directory == ["/opt/my agent 100%%"]


@pytest.mark.parametrize("word", ["", "a\nb", 'a"b', "a\\b", "$HOME", "a;b", "é"])
def test_what_systemd_would_read_otherwise_is_refused(word: str) -> None:
    with pytest.raises(UserError, match="cannot stand in a unit"):
        quote(word)


@pytest.fixture(scope="module", params=[False, True], ids=["portable", "steered"])
def units(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the units, of which each command exists here."""
    folder = tmp_path_factory.mktemp("units")
    command = [sys.executable, *COMMAND[1:]]
    for place, text in render(plan(steered=request.param, command=command)).items():
        (folder / Path(place).name).write_text(text)
    return folder


def analyze(*arguments: str, units: Path) -> subprocess.CompletedProcess[str]:
    assert ANALYZE is not None
    return subprocess.run(
        [ANALYZE, *arguments],
        env={"SYSTEMD_UNIT_PATH": f"{units}:", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@needs_systemd
def test_systemd_finds_nothing_to_complain_about(units: Path) -> None:
    names = ["voicerelay.target", "voicerelay-control.service", "voicerelay-udp@relay-0.socket"]
    names += [
        "voicerelay-relay@0.service",
        "voicerelay-transceiver@0.service",
        "voicerelay-admin.service",
    ]

    done = analyze("verify", *(str(units / name) for name in names), units=units)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
def test_every_service_is_hardly_exposed(units: Path) -> None:
    for name in SERVICES:
        unit = str(units / f"voicerelay-{name}.service")

        done = analyze(
            "security", "--offline=true", f"--threshold={MAX_EXPOSURE}", unit, units=units
        )

        assert done.returncode == 0, done.stdout + done.stderr
