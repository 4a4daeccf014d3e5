"""Builds the C programs on the spot, into a directory that the run removes."""

import shutil
import subprocess
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "c"
FLAGS = ("-O2", "-Wall", "-Wextra", "-Werror")
PROGRAMS = {
    "loadgen": ("loadgen.c", "sender.c", "sink.c"),
    "relay_sendto": ("relay_sendto.c",),
    "relay_mmsg": ("relay_mmsg.c",),
}


def build(into: Path) -> None:
    """Compile every program to `into`/NAME. Raises SystemExit with what to install."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise SystemExit("no C compiler: apt-get install --no-install-recommends gcc libc6-dev")
    for name, files in PROGRAMS.items():
        paths = [str(SOURCES / file) for file in files]
        subprocess.run([compiler, *FLAGS, "-o", str(into / name), *paths], check=True)
