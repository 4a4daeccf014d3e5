"""What installs: the rooms below `voicerelay`, whole, and nothing beside them."""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path, PurePosixPath

import pytest

import voicerelay

ROOT = Path(__file__).parents[2]
LINKS = ROOT / "tests" / "typing" / "voicerelay"
ROOMS = ("cli", "control", "relay", "shm", "systemd", "transceiver")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])"


def python(*arguments: str, cwd: Path, path: Path | None = None) -> str:
    """Output of a fresh interpreter that sees `path` first and never its own working directory."""
    done = subprocess.run(
        [sys.executable, "-P", *arguments],
        cwd=cwd,
        env={"PYTHONPATH": str(path)} if path else None,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def shipped() -> Iterator[tuple[PurePosixPath, Path]]:
    """(path inside site-packages, path in the checkout) of every file that must install."""
    folders = {"voicerelay": PurePosixPath("voicerelay")}
    folders |= {room: PurePosixPath("voicerelay", room) for room in ROOMS}
    for folder, target in folders.items():
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix in {
                ".py",
                ".typed",
                ".html",
                ".c",
                ".h",
                ".conf",
                ".service",
                ".socket",
                ".target",
            }:
                yield target / file.relative_to(ROOT / folder).as_posix(), file


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution of this checkout, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    unwanted = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
    tree = shutil.copytree(ROOT, folder / "tree", symlinks=True, ignore=unwanted)
    python("-c", BUILD.format("sdist"), str(folder), cwd=tree)
    (archive,) = folder.glob("voicerelay-*.tar.gz")
    # tarfile's filters came with 3.11.4, Debian 12 has 3.11.2.
    subprocess.run(["tar", "-xzf", archive], cwd=folder, check=True, timeout=60)
    return folder / archive.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def site(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like site-packages, with the wheel made from the source distribution."""
    folder = tmp_path_factory.mktemp("wheel")
    python("-c", BUILD.format("wheel"), str(folder), cwd=sdist)
    (wheel,) = folder.glob("voicerelay-*-py3-none-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_wheel_holds_every_module_and_nothing_else(site: Path) -> None:
    installed = {
        PurePosixPath(file.relative_to(site).as_posix()): file.read_bytes()
        for file in site.rglob("*")
        if file.is_file() and ".dist-info" not in str(file)
    }

    programs = (
        "relay/steer.bpf.o",
        "relay/libfastpath.so.1",
        "transceiver/voice/libvoice.so.1",
    )
    built = [installed.pop(PurePosixPath("voicerelay", name), None) for name in programs]
    assert installed == {target: file.read_bytes() for target, file in shipped()}
    compilers = [shutil.which("clang"), shutil.which("cc"), shutil.which("cc")]
    assert [program is not None for program in built] == [one is not None for one in compilers]


def test_a_wheel_with_the_loop_in_c_is_for_one_platform_and_every_python(site: Path) -> None:
    (info,) = site.glob("voicerelay-*.dist-info")

    tag = message_from_bytes((info / "WHEEL").read_bytes())["Tag"]

    assert tag == "py3-none-any" or (shutil.which("cc") and tag.startswith("py3-none-linux_"))


def test_sdist_carries_units_and_tests_once(sdist: Path) -> None:
    for name in ("LICENSE", "README.md", "systemd/README.md", "tests/unit/test_packaging.py"):
        assert (sdist / name).is_file(), name

    assert not (sdist / "tests" / "typing").exists()


def test_metadata(site: Path) -> None:
    (info,) = site.glob("voicerelay-*.dist-info")
    metadata = message_from_bytes((info / "METADATA").read_bytes())

    assert (metadata["Name"], metadata["Version"]) == ("voicerelay", voicerelay.__version__)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert (info / "licenses" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    entry_points = (info / "entry_points.txt").read_text()
    assert "voicerelay = voicerelay.cli.main:main" in entry_points


@pytest.mark.parametrize("room", ROOMS)
def test_installed_room_wins_over_the_checkout(site: Path, room: str) -> None:
    """README's first command runs inside the checkout, next to a `voicerelay/` without rooms."""
    show = f"import voicerelay.{room} as room; print(room.__file__)"

    found = python("-c", show, cwd=ROOT, path=site)

    assert found == str(site / "voicerelay" / room / "__init__.py")


def test_typing_links_show_the_installed_layout() -> None:
    expected = {file.name: file for file in (ROOT / "voicerelay").iterdir() if file.is_file()}
    expected |= {room: ROOT / room for room in ROOMS}

    links = {link.name: link.resolve() for link in LINKS.iterdir() if link.is_symlink()}

    assert links == expected
