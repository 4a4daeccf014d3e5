"""How setup.py builds its programs in C: where that cannot be done all else is built, and it says why."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
SOURCE, OBJECT = Path("relay/steer.bpf.c"), Path("relay/steer.bpf.o")
VOICE = "transceiver/voice"
BUILT_WITHOUT = "built without kernel steering"
HEADERS = Path("/usr/include/bpf/bpf_helpers.h")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the checkout, with what an earlier build left, but without anybody's tests."""
    unwanted = shutil.ignore_patterns(
        ".*", "bench", "build", "dist", "docs", "tests", "*.egg-info", "__pycache__"
    )
    copy = shutil.copytree(ROOT, tmp_path / "tree", symlinks=True, ignore=unwanted)
    (copy / "dist").mkdir()
    (copy / OBJECT).unlink(missing_ok=True)
    return copy


def build(tree: Path, path: str | None = None) -> str:
    """Build the wheel as pip does, with another PATH; what the build wrote."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", BUILD],
        cwd=tree,
        env=os.environ | ({} if path is None else {"PATH": path}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def shipped(tree: Path, room: str = "relay") -> set[str]:
    """Names that the wheel has below a room."""
    (wheel,) = (tree / "dist").glob("*.whl")
    listed = subprocess.run(
        [sys.executable, "-m", "zipfile", "-l", str(wheel)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    names = (line.split()[0] for line in listed.stdout.splitlines()[1:])
    return {Path(name).name for name in names if name.startswith(f"voicerelay/{room}/")}


def fake_clang(folder: Path, script: str) -> str:
    """A PATH that begins with a `clang` of our own."""
    folder.mkdir()
    clang = folder / "clang"
    clang.write_text(f"#!/bin/sh\n{script}\n")
    clang.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def needs_clang() -> None:
    if shutil.which("clang") is None or not HEADERS.exists():
        pytest.skip("kernel steering: clang or libbpf-dev is not installed")


def test_with_clang_the_program_is_built_and_shipped(tree: Path) -> None:
    needs_clang()

    output = build(tree)

    assert BUILT_WITHOUT not in output
    assert (tree / OBJECT).read_bytes().startswith(b"\x7fELF")
    assert {"steer.bpf.c", "steer.bpf.o", "route.py"} <= shipped(tree)


def test_without_clang_all_else_is_built_and_it_says_so(tree: Path, tmp_path: Path) -> None:
    empty = tmp_path / "bin"
    empty.mkdir()

    output = build(tree, str(empty))

    names = shipped(tree)
    assert {"steer.bpf.c", "route.py"} <= names
    assert "steer.bpf.o" not in names
    (line,) = (line for line in output.splitlines() if BUILT_WITHOUT in line)
    assert "clang" in line


def test_a_source_that_does_not_compile_leaves_no_object_and_says_why(tree: Path) -> None:
    # given a source that is broken since the last build
    needs_clang()
    (tree / SOURCE).write_text((tree / SOURCE).read_text() + "\nint broken( {\n")
    (tree / OBJECT).write_bytes(b"of an earlier build")

    output = build(tree)

    assert not (tree / OBJECT).exists()
    names = shipped(tree)
    assert "route.py" in names
    assert "steer.bpf.o" not in names
    (line,) = (line for line in output.splitlines() if BUILT_WITHOUT in line)
    assert "steer.bpf.c:" in line
    assert "error" in line


def test_without_clang_no_object_of_an_earlier_build_is_shipped(tree: Path, tmp_path: Path) -> None:
    """It may be of another version: its maps would not be those that control writes."""
    (tree / OBJECT).write_bytes(b"of an earlier build")
    empty = tmp_path / "bin"
    empty.mkdir()

    build(tree, str(empty))

    assert "steer.bpf.o" not in shipped(tree)


def test_a_clang_that_fails_without_a_word_does_not_fail_the_build(
    tree: Path, tmp_path: Path
) -> None:
    output = build(tree, fake_clang(tmp_path / "bin", "exit 1"))

    assert f"{BUILT_WITHOUT}: no reason given" in output
    assert "steer.bpf.o" not in shipped(tree)


def test_with_a_c_compiler_the_relays_loop_and_voice_are_built_and_shipped(tree: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler is installed")

    build(tree)

    assert {"fastpath.c", "fastpath.py", "libfastpath.so.1"} <= shipped(tree)
    assert {"voice.c", "voice.h", "engine.py", "libvoice.so.1"} <= shipped(tree, VOICE)


def test_without_a_c_compiler_the_loop_and_voice_in_python_are_there(
    tree: Path, tmp_path: Path
) -> None:
    (tree / "relay/libfastpath.so.1").write_bytes(b"of an earlier build")
    (tree / VOICE / "libvoice.so.1").write_bytes(b"of an earlier build")
    empty = tmp_path / "bin"
    empty.mkdir()

    output = build(tree, str(empty))

    assert {"fastpath.c", "fastpath.py", "loop.py"} <= shipped(tree)
    assert "libfastpath.so.1" not in shipped(tree)
    assert "built without the relay's loop in C: cc is not here" in output
    assert {"voice.c", "voice.h", "engine.py"} <= shipped(tree, VOICE)
    assert "libvoice.so.1" not in shipped(tree, VOICE)
    assert "built without voice in C: cc is not here" in output
    (wheel,) = (tree / "dist").glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
