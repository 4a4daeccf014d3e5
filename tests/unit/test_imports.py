"""Who may import whom: the contracts of pyproject.toml hold, and a room has exactly one name."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("cli", "control", "relay", "shm", "systemd", "transceiver")
WEBRTC = ("OpenSSL", "aioice", "aiortc", "av", "pylibsrtp")
LINT_IMPORTS = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def run(*command: str, cwd: Path, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, input=text, capture_output=True, text=True, check=False, timeout=120
    )


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Hold the package `voicerelay` found in `folder` against the contracts."""
    command = (sys.executable, "-P", "-c", LINT_IMPORTS, "--no-logo", "--no-cache")
    return run(*command, "--config", str(ROOT / "pyproject.toml"), cwd=folder)


def test_contracts_hold() -> None:
    # tests/typing shows the rooms at the place they install to.
    found = lint_imports(ROOT / "tests" / "typing")

    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("relay/__init__.py", "import voicerelay.transceiver"),
        ("relay/__init__.py", "import voicerelay.control"),
        ("control/__init__.py", "from voicerelay import cli"),
        ("shm/__init__.py", "import voicerelay.relay"),
        ("relay/__init__.py", "import aiortc"),
        ("__init__.py", "import voicerelay.transceiver.voice.path"),
        ("__init__.py", "from voicerelay.shm import layout"),
        ("attic/__init__.py", "import voicerelay.shm"),
    ],
)
def test_contracts_bite(tmp_path: Path, module: str, line: str) -> None:
    # given a clean tree
    package = tmp_path / "voicerelay"
    for room in (".", *ROOMS):
        (package / room).mkdir()
        (package / room / "__init__.py").touch()
    for name in ("__main__.py", "echo.py", "shm/layout.py", "transceiver/voice/path.py"):
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).touch()
    public = ("agent", "affinity", "realtime.session")
    for name in public:
        module_file = package / "transceiver" / f"{name.replace('.', '/')}.py"
        module_file.parent.mkdir(exist_ok=True)
        module_file.touch()
    for room in ("realtime", "voice"):
        (package / "transceiver" / room / "__init__.py").touch()
    imports = "\n".join(f"import voicerelay.transceiver.{name}" for name in public)
    (package / "__init__.py").write_text(f"{imports}\n")
    clean = lint_imports(tmp_path)
    assert clean.returncode == 0, clean.stdout + clean.stderr

    # when somebody takes the short way
    (package / module).parent.mkdir(exist_ok=True)
    with (package / module).open("a") as file:
        file.write(f"{line}\n")

    # then it is refused
    found = lint_imports(tmp_path)
    assert (found.returncode, found.stdout.count("BROKEN")) == (1, 1), found.stdout + found.stderr


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_one_name(tmp_path: Path, room: str) -> None:
    probe = (
        "import importlib.util as u;"
        f"assert u.find_spec('{room}') is None, 'top-level {room} is importable';"
        f"assert u.find_spec('voicerelay.{room}'), 'voicerelay.{room} is not installed'"
    )

    found = run(sys.executable, "-c", probe, cwd=tmp_path)

    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("room", ROOMS)
def test_this_test_run_sees_one_name_too(room: str) -> None:
    assert importlib.util.find_spec(room) is None, (
        f"sys.path holds the checkout, so `import {room}` makes a second copy of voicerelay.{room}:"
        " run `pytest` or `python -P -m pytest`, and leave `pythonpath` unset"
    )


@pytest.mark.parametrize("room", ROOMS)
def test_ruff_refuses_the_second_name(room: str) -> None:
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent))
    assert ruff, "ruff comes with the extra `dev`"
    code = f"from {room} import something\n"

    found = run(ruff, "check", "--no-cache", "--select=TID251", "-", cwd=ROOT, text=code)

    assert "TID251" in found.stdout
    assert f"voicerelay.{room}" in found.stdout


@pytest.mark.parametrize("room", ["control", "relay", "shm"])
def test_only_the_transceiver_pays_for_webrtc(tmp_path: Path, room: str) -> None:
    """`voicerelay/__init__` runs before any room: its public names come when they are asked for."""
    probe = (
        "import importlib, pkgutil, sys;"
        f"room = importlib.import_module('voicerelay.{room}');"
        "names = [m.name for m in pkgutil.walk_packages(room.__path__, room.__name__ + '.')];"
        "[importlib.import_module(n) for n in names if not n.endswith('__main__')];"
        f"print(*sorted(set(sys.modules) & set({[*WEBRTC, 'voicerelay.transceiver']})))"
    )

    found = run(sys.executable, "-c", probe, cwd=tmp_path)

    assert (found.returncode, found.stdout.split()) == (0, []), found.stderr
