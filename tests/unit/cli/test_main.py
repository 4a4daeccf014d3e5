"""The command line: every bad input is one line and exit code 2, every option has its variable."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from click.testing import CliRunner, Result

from voicerelay import __version__
from voicerelay.cli import network
from voicerelay.cli.main import main
from voicerelay.shm.rundir import InstanceLock

PATIENCE_S = 60
CODE_OF_NOT_RUNNING = 3

Start = Callable[..., Result]

# Gives up root's rights, then starts.
AS_NOBODY = """
import os, sys
from voicerelay.cli.main import main
import voicerelay.cli.supervisor
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
main(sys.argv[1:])
"""


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def usual(run_dir: Path) -> dict[str, str]:
    """Options of an instance that could start."""
    return {
        "--port": str(free_port(socket.SOCK_DGRAM)),
        "--listen": "127.0.0.1",
        "--http": f"127.0.0.1:{free_port(socket.SOCK_STREAM)}",
        "--run-dir": str(run_dir),
        "--relays": "1",
        "--transceivers": "1",
    }


def arguments(options: dict[str, str]) -> list[str]:
    return [part for option in options.items() for part in option]


async def never(*_: object) -> NoReturn:
    pytest.fail("it was started")


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Start with usual options, of which some are given otherwise, and more behind them."""
    monkeypatch.setattr(network, "PORT_WAIT_S", 0.0)
    monkeypatch.setattr("voicerelay.cli.supervisor.Supervisor.run", never)
    for name in [name for name in os.environ if name.startswith("VOICERELAY_")]:
        monkeypatch.delenv(name)

    def invoke(*more: str, **otherwise: str) -> Result:
        options = usual(tmp_path / "run")
        options |= {f"--{name.replace('_', '-')}": value for name, value in otherwise.items()}
        return CliRunner().invoke(main, ["start", *arguments(options), *more])

    return invoke


def is_one_line(text: str, code: int) -> None:
    """Hold that this is the one line a user can read, and not a traceback."""
    assert text.startswith("voicerelay: error: "), text
    assert text.count("\n") == 1, text
    assert code == 2


BAD_OPTIONS = [
    *(("port", value) for value in ("0", "-1", "65536", "abc", "")),
    *(("listen", value) for value in ("localhost", "", "192.0.2.300", "224.0.0.1", "ff02::1")),
    *(("listen", value) for value in ("fe80::1", "198.51.100.1", "255.255.255.255")),
    *(("public_ip", value) for value in ("example.org", "224.0.0.1", "0.0.0.0")),
    *(("http", value) for value in ("8080", "localhost", ":80", "localhost:0", "localhost:65536")),
    *(("http", value) for value in ("[::1]", "::1:80", "a..b:80", "ä..b:80", "198.51.100.1:80")),
    *(("relays", value) for value in ("0", "65", "two")),
    *(("transceivers", value) for value in ("0", "257")),
    ("max_sessions", "0"),
    *(("sessions_per_key", value) for value in ("-1", "1001")),
    *(("api_key_file", value) for value in ("/no/such/file", "/proc", __file__)),
    *(("ice_servers", value) for value in ("/no/such/file", "/proc", __file__)),
    *(("cors_origin", value) for value in ("example.org", "https://example.org/", "")),
    *(("capacity", value) for value in ("15", "1000001")),
    ("run_dir", "/tmp/" + "x" * 80),
    ("run_dir", "/proc/voicerelay-cannot-be"),
    ("run_dir", __file__),
    ("run_dir", f"{__file__}/below"),
    ("log_level", "loud"),
    ("no_such_option", "1"),
]


@pytest.mark.parametrize(("option", "value"), BAD_OPTIONS)
def test_a_bad_option_is_one_line(start: Start, option: str, value: str, tmp_path: Path) -> None:
    result = start(**{option: value})

    is_one_line(result.stderr, result.exit_code)
    assert result.stdout == ""
    assert not (tmp_path / "run").exists()


def test_public_addresses_that_do_not_fit_are_one_line(start: Start) -> None:
    result = start("--public-ip", "192.0.2.1", "--public-ip", "192.0.2.2")

    is_one_line(result.stderr, result.exit_code)
    assert "--public-ip" in result.stderr


def test_a_taken_udp_port_is_one_line(start: Start) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))

        result = start(port=str(holder.getsockname()[1]))

    is_one_line(result.stderr, result.exit_code)
    assert "is in use" in result.stderr


def test_a_taken_http_port_is_one_line(start: Start) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()

        result = start(http=f"127.0.0.1:{holder.getsockname()[1]}")

    is_one_line(result.stderr, result.exit_code)
    assert "is in use" in result.stderr


def test_a_second_instance_is_one_line_and_leaves_the_first_alone(
    start: Start, tmp_path: Path
) -> None:
    # given an instance in the same run directory
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    first = InstanceLock(run_dir)
    first.acquire()
    (run_dir / "control.sock").touch()

    result = start()

    is_one_line(result.stderr, result.exit_code)
    assert f"pid {os.getpid()}" in result.stderr
    assert (run_dir / "control.sock").exists()
    first.release()


@pytest.mark.parametrize("what", ["port", "run_dir"])
def test_a_right_that_is_missing_is_one_line(what: str, tmp_path: Path) -> None:
    # given a user who may neither have the port nor write the directory
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if what == "port" and first <= 1:
        pytest.skip("this host lets anybody have every port")
    tmp_path.chmod(0o755)
    options = usual(Path(f"/tmp/vrtest-{os.getpid()}"))
    options |= {"--port": str(first - 1)} if what == "port" else {"--run-dir": "/usr/vrtest"}

    done = subprocess.run(
        [sys.executable, "-P", "-c", AS_NOBODY, "start", *arguments(options)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    is_one_line(done.stderr, done.returncode)
    assert ("no permission" if what == "port" else "Permission denied") in done.stderr
    assert not Path(f"/tmp/vrtest-{os.getpid()}").exists()


@pytest.fixture
def apps(tmp_path: Path) -> Path:
    """A working directory with applications that cannot be used."""
    folder = tmp_path / "apps"
    folder.mkdir()
    (folder / "unready.py").write_text(
        "from voicerelay import App\nwithout_agent = App()\nsomething = 1\n"
    )
    (folder / "raising.py").write_text("raise RuntimeError('first line\\nsecond line')\n")
    (folder / "leaving.py").write_text("raise SystemExit(1)\n")
    (folder / "needing.py").write_text("import no_such_library\n")
    return folder


@pytest.mark.system
@pytest.mark.parametrize(
    ("app", "reason"),
    [
        ("nowhere:app", 'no module "nowhere"'),
        ("unready", "module:attribute"),
        ("unready:nothing", "not a voicerelay.App"),
        ("unready:something", "not a voicerelay.App"),
        ("unready:without_agent", "no agent"),
        ("raising:app", "first line second line"),
        ("needing:app", "no_such_library"),
        ("leaving:app", "transceiver 0"),
    ],
)
def test_an_app_that_cannot_be_used_is_one_line(apps: Path, app: str, reason: str) -> None:
    run_dir = apps / "run"

    done = subprocess.run(
        [sys.executable, "-m", "voicerelay", "start", app, *arguments(usual(run_dir))],
        cwd=apps,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    said = [line for line in done.stderr.splitlines() if line.startswith("voicerelay: error: ")]
    assert len(said) == 1
    assert reason in said[0]
    assert "Traceback" not in done.stderr
    assert done.returncode == 2
    assert not run_dir.exists()


def test_a_bad_variable_is_one_line(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOICERELAY_CAPACITY", "1")

    result = start()

    is_one_line(result.stderr, result.exit_code)
    assert "--capacity" in result.stderr


def test_status_without_an_instance_has_a_code_of_its_own(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["status", "--run-dir", str(tmp_path)])

    assert result.exit_code == CODE_OF_NOT_RUNNING
    assert result.stderr.startswith("voicerelay: error: no instance runs in")
    assert result.stderr.count("\n") == 1


def test_the_version_is_told() -> None:
    assert __version__ in CliRunner().invoke(main, ["--version"]).output


@pytest.mark.parametrize("arguments", [["--help"], ["start", "-h"], ["status", "--help"]])
def test_help_is_given(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)

    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("Usage:")
