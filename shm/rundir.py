"""The run directory of one instance: which file stands where, and how leftovers are removed."""

import contextlib
import fcntl
import hashlib
import os
import time
from pathlib import Path

from voicerelay.shm.bpf import BPFFS
from voicerelay.shm.region import remove_segments

LOCK_PATIENCE_S = 0.3
LOCK_RETRY_S = 0.01
DIRECTORY_MODE = 0o750
SOCKET_MODE = 0o660
INSTANCE_FILE = "instance.json"  # what the supervisor says of itself, for `status`


def control_socket(run_dir: Path) -> Path:
    return run_dir / "control.sock"


def supervisor_socket(run_dir: Path) -> Path:
    """Where the supervisor takes commands."""
    return run_dir / "supervisor.sock"


def frames_socket(run_dir: Path, slot: int, generation: int) -> Path:
    """Where relays hand frames to a transceiver; the generation keeps them from its successor."""
    return run_dir / f"frames-{slot}-{generation}.sock"


def http_socket(run_dir: Path, slot: int) -> Path:
    """Where siblings proxy signalling to the transceiver that owns a session."""
    return run_dir / f"http-{slot}.sock"


def figures_socket(run_dir: Path, slot: int) -> Path:
    """Where a transceiver tells operators of its calls, and ends them."""
    return run_dir / f"figures-{slot}.sock"


def region_name(run_dir: Path) -> str:
    """Shared-memory name of the instance whose run directory this is."""
    digest = hashlib.blake2s(str(run_dir.resolve()).encode(), digest_size=6).hexdigest()
    return f"voicerelay-{digest}"


def pins(run_dir: Path) -> Path:
    """Directory of the instance's pins, where bpffs is mounted."""
    return BPFFS / region_name(run_dir)


class InstanceLock:
    """Held by the supervisor as long as it lives; released by the kernel, also after kill -9."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "lock"
        self._fd = -1

    def acquire(self) -> bool:
        """False when a running instance holds it.

        A `status` that looks, or a holder that is just ending, holds it for a moment only.
        """
        deadline = time.monotonic() + LOCK_PATIENCE_S
        while True:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                if time.monotonic() > deadline:
                    return False
                time.sleep(LOCK_RETRY_S)
                continue
            if self._is_current(fd):
                break
            os.close(fd)  # its last holder removed the file before letting go
        self._own(fd)
        return True

    def inherit(self, fd: int) -> bool:
        """Take over a held lock's descriptor; False, and it is closed, when it is not this lock's."""
        if not self._is_current(fd):
            os.close(fd)
            return False
        self._own(fd)
        return True

    def _own(self, fd: int) -> None:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def _is_current(self, fd: int) -> bool:
        try:
            return os.fstat(fd).st_ino == self._path.stat().st_ino
        except FileNotFoundError:
            return False

    def fileno(self) -> int:
        """Descriptor of a lock that is held, else -1."""
        return self._fd

    def holder(self) -> str:
        """The pid written by whoever holds the lock, for a message."""
        try:
            return self._path.read_text().strip() or "unknown"
        except OSError:
            return "unknown"

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def clean(run_dir: Path) -> bool:
    """Remove an instance's sockets, segments and pins; True when there were any. Hold the lock."""
    from shutil import rmtree  # noqa: PLC0415  (every process imports this module; few clean, and none at work)

    found = remove_segments(region_name(run_dir))
    with contextlib.suppress(OSError):  # none, or another user's, which nobody uses
        rmtree(pins(run_dir))
        found = True
    for leftover in run_dir.glob("*.sock"):
        with contextlib.suppress(FileNotFoundError):
            leftover.unlink()
            found = True
    return found


def remove(run_dir: Path) -> None:
    """Clean, then remove the directory itself if nothing of anybody else's is in it."""
    clean(run_dir)
    with contextlib.suppress(OSError):
        (run_dir / INSTANCE_FILE).unlink(missing_ok=True)
        (run_dir / "lock").unlink()
        run_dir.rmdir()
        if run_dir.parent.name.startswith("voicerelay"):
            run_dir.parent.rmdir()  # only when no other instance is left
