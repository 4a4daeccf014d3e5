"""A bpffs at its usual place, in a mount namespace of its own: nothing on the machine's own tree."""

import contextlib
import functools
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from voicerelay.shm.bpf import BPFFS

HOLDER = f"mount -t bpf bpf {BPFFS} && echo ready && exec sleep infinity"


@dataclass(frozen=True)
class Mounted:
    """`prefix`: goes before a command that is to see it; `path`: the same from outside."""

    prefix: tuple[str, ...]
    path: Path


@functools.cache
def obstacle() -> str:
    """Why none can be mounted here, for a skip; empty when it can."""
    if missing := [name for name in ("unshare", "nsenter") if shutil.which(name) is None]:
        return f"needs {', '.join(missing)}"
    tried = subprocess.run(
        ["unshare", "-m", "mount", "-t", "bpf", "bpf", str(BPFFS)], check=False, capture_output=True
    )
    return "needs root with CAP_SYS_ADMIN, and a kernel with bpffs" if tried.returncode else ""


@contextlib.contextmanager
def mounted() -> Iterator[Mounted]:
    """It goes away, with all its pins, at the end or with the test run."""
    guard = shutil.which("setpriv")
    command = [*([guard, "--pdeathsig", "KILL"] if guard else []), "unshare", "-m"]
    with subprocess.Popen([*command, "sh", "-c", HOLDER], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"ready\n"
            place = Path(f"/proc/{holder.pid}")
            prefix = ("nsenter", f"--mount={place / 'ns' / 'mnt'}", "--")
            yield Mounted(prefix, place / "root" / BPFFS.relative_to("/"))
        finally:
            holder.send_signal(signal.SIGKILL)
