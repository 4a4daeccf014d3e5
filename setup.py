"""Builds the two programs in C where their compilers are; without them all else works, and the build says so."""

import logging
import platform
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.dist import Distribution


class Program(NamedTuple):
    """Compiled beside its source by the first of `compilers` that is there."""

    what: str
    compilers: tuple[str, ...]
    flags: tuple[str, ...]
    source: Path
    target: Path

    def compiler(self) -> str | None:
        return next(filter(None, map(shutil.which, self.compilers)), None)


STEERING = Program(
    "kernel steering",
    ("clang",),
    # Debian keeps <asm/types.h> in a directory of the architecture.
    (
        *("-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-c"),
        *("-I", f"/usr/include/{platform.machine()}-linux-gnu"),
    ),
    Path("relay/steer.bpf.c"),
    Path("relay/steer.bpf.o"),
)
FAST_PATH = Program(
    "the relay's loop in C",
    ("cc", "gcc", "clang"),
    ("-O2", "-Wall", "-shared", "-fPIC"),
    Path("relay/fastpath.c"),
    Path("relay/libfastpath.so.1"),
)

VOICE = Program(
    "voice in C",
    ("cc", "gcc", "clang"),
    ("-O2", "-Wall", "-shared", "-fPIC"),
    Path("transceiver/voice/voice.c"),
    Path("transceiver/voice/libvoice.so.1"),
)


class BuildWithPrograms(build_py):
    """Compiles the programs before the packages are collected."""

    def run(self) -> None:
        for program in (STEERING, FAST_PATH, VOICE):
            reason = self.build_program(program)
            if reason:
                self.announce(f"built without {program.what}: {reason}", level=logging.WARNING)
        super().run()

    def build_program(self, program: Program) -> str:
        """Why it could not be done; empty when it was."""
        program.target.unlink(missing_ok=True)  # one of another version must not be shipped
        compiler = program.compiler()
        if compiler is None:
            return f"{program.compilers[0]} is not here"
        done = subprocess.run(
            [compiler, *program.flags, str(program.source), "-o", str(program.target)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            return ""
        program.target.unlink(missing_ok=True)
        return (done.stderr.strip() or "no reason given").splitlines()[0]


class PlatformDistribution(Distribution):
    """With the loop in C a wheel is for this platform."""

    def has_ext_modules(self) -> bool:
        return FAST_PATH.compiler() is not None


class AnyPythonWheel(bdist_wheel):
    """The loop in C knows nothing of Python, so that one wheel serves every Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        _, _, platform_tag = super().get_tag()
        return "py3", "none", platform_tag


setup(
    distclass=PlatformDistribution,
    cmdclass={"build_py": BuildWithPrograms, "bdist_wheel": AnyPythonWheel},
)
