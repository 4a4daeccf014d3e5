"""Bundles released npm packages for a page: installed by npm outside of the repository, kept between runs."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

INSTALL_TIMEOUT_S = 150
NPM = shutil.which("npm")


def bundle(source: Path) -> Path:
    """The bundle of `source`/entry.js with the packages of `source`/package.json."""
    assert NPM, "npm is not installed"
    contents = b"".join((source / name).read_bytes() for name in ("package.json", "entry.js"))
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "voicerelay-tests"
    made = base / hashlib.sha256(contents).hexdigest()[:16] / "bundle.js"
    if made.exists():
        return made
    made.parent.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=base) as folder:
        for name in ("package.json", "entry.js"):
            shutil.copy(source / name, folder)
        # No script of a package runs: none of them needs to.
        run = [NPM, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        subprocess.run(run, cwd=folder, check=True, timeout=INSTALL_TIMEOUT_S)
        esbuild = Path(folder) / "node_modules/.bin/esbuild"
        subprocess.run(
            [esbuild, "entry.js", "--bundle", "--outfile=bundle.js", "--log-level=error"],
            cwd=folder,
            check=True,
            timeout=INSTALL_TIMEOUT_S,
        )
        made.parent.mkdir(exist_ok=True)
        (Path(folder) / "bundle.js").replace(made)
    return made
