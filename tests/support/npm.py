"""Released npm packages for a page: installed into a temporary folder and bundled by esbuild."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

NPM = shutil.which("npm")
INSTALL_TIMEOUT_S = 150
BUNDLE_TIMEOUT_S = 60
BUNDLER = "esbuild"


def bundle(folder: Path, packages: Sequence[str], entry: str) -> str:
    """One script for a page. `entry`: a module that may import `packages`, each "name@version".

    Nothing that a package brings is run while it is installed. Raises CalledProcessError.
    """
    assert NPM, "npm is not installed"
    (folder / "package.json").write_text(json.dumps({"private": True}))
    install = [NPM, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    _run([*install, *packages, BUNDLER], folder, INSTALL_TIMEOUT_S)
    (folder / "entry.mjs").write_text(entry)
    bundler = str(folder / "node_modules" / ".bin" / BUNDLER)
    options = ["--bundle", "--minify", "--format=iife", "--log-level=error"]
    _run([bundler, "entry.mjs", *options, "--outfile=bundle.js"], folder, BUNDLE_TIMEOUT_S)
    return (folder / "bundle.js").read_text()


def _run(command: Sequence[str], folder: Path, timeout_s: float) -> None:
    subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True, timeout=timeout_s
    )
