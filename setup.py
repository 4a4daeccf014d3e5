"""Builds the kernel steering program when clang and libbpf's headers are there; without, all else works."""

import logging
import platform
import shutil
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SOURCE = Path("relay/steer.bpf.c")


class BuildWithProgram(build_py):
    """Compiles the program beside its source before the packages are collected."""

    def run(self) -> None:
        self.compile_program()
        super().run()

    def compile_program(self) -> None:
        target = SOURCE.with_suffix(".o")
        target.unlink(missing_ok=True)  # one of another version must not be shipped
        clang = shutil.which("clang")
        if clang is None:
            self.announce("clang is not here: built without kernel steering", level=logging.WARNING)
            return
        include = f"/usr/include/{platform.machine()}-linux-gnu"  # where Debian keeps <asm/types.h>
        flags = ["-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-I", include]
        done = subprocess.run(
            [clang, *flags, "-c", str(SOURCE), "-o", str(target)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            target.unlink(missing_ok=True)
            reason = (done.stderr.strip() or "no reason given").splitlines()[0]
            self.announce(f"built without kernel steering: {reason}", level=logging.WARNING)


setup(cmdclass={"build_py": BuildWithProgram})
