"""A real systemd beside a test: process 1 of namespaces of its own, on a throw-away copy of this machine's files.

It keeps the machine's network, so that callers reach what it starts over loopback. Needs root.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

SYSTEMD = Path("/lib/systemd/systemd")
BOOT_TIMEOUT_S = 15.0
COMMAND_TIMEOUT_S = 60.0

# $1: an empty directory. The rest: directories that must look alike inside, whatever they are mounted from.
BOOT = r"""
set -e
base=$1; shift
root=$base/root
mount --make-rprivate /
mount -t tmpfs tmpfs "$base"
mkdir "$base/upper" "$base/work" "$root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$base/upper,workdir=$base/work" "$root"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
for place in run tmp var/tmp; do mount -t tmpfs -o mode=755 tmpfs "$root/$place"; done
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do cp -a "/dev/$device" "$root/dev/"; done
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
for shown; do mkdir -p "$root/$shown"; mount --rbind "$shown" "$root/$shown"; done
# Nothing of this machine's own is to start, nor any setting to be changed.
rm -rf "$root"/etc/systemd/system "$root"/lib/systemd/system/*.target.wants
mkdir "$root/etc/systemd/system"
printf '[Unit]\nDescription=nothing yet\n' >"$root/etc/systemd/system/idle.target"
cd "$root"
mkdir -p old
pivot_root . old
umount -l old
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin "$SYSTEMD" --unit=idle.target --show-status=no
"""


class NotBooted(Exception):
    """This machine has all that is needed and still does not let one boot; the text holds why."""


def obstacle() -> str:
    """Why no systemd can be booted here; empty when it can be tried."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [
        name
        for name in ("unshare", "nsenter", "pivot_root", "setpriv", "systemctl")
        if not _which(name)
    ]
    if missing or not SYSTEMD.exists():
        return f"there is no {', '.join(missing) or SYSTEMD}"
    if _cgroups() is None:
        return "cgroup2 is not mounted"
    return ""


class Booted:
    """A running one; `boot()` makes it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.root = Path(f"/proc/{pid}/root")  # its files, seen from here

    def run(self, *command: str, check: bool = True) -> str:
        """Output of a command inside. Raises AssertionError when it fails, unless not `check`."""
        done = subprocess.run(
            ["nsenter", f"--target={self.pid}", *("-p", "-m", "-C", "-i", "-u"), "--", *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_TIMEOUT_S,
        )
        if check and done.returncode:
            raise AssertionError(
                f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}"
            )
        return done.stdout

    def show(self, unit: str, *names: str) -> list[str]:
        """Properties of a unit."""
        asked = [f"--property={name}" for name in names]
        found = self.run("systemctl", "show", unit, *asked).splitlines()
        values = dict(line.split("=", 1) for line in found)
        return [values[name] for name in names]

    def main_pid(self, unit: str) -> int:
        """Its main process as it is numbered inside, 0 for none."""
        return int(self.show(unit, "MainPID")[0])

    def kill(self, unit: str, number: signal.Signals) -> None:
        """Send a signal to its main process."""
        self.run("systemctl", "kill", "--kill-who=main", f"--signal={number.name}", unit)


@contextlib.contextmanager
def boot(shown: Sequence[Path]) -> Iterator[Booted]:
    """A booted systemd, that has started nothing; `shown`: directories it must find.

    Raises NotBooted. Enter it on the main thread: it is ended with the thread that started it.
    """
    base = Path(tempfile.mkdtemp(prefix="vrboot-"))
    cgroups = _cgroups()
    assert cgroups is not None
    cgroup = cgroups / base.name
    cgroup.mkdir()
    unshare = ["unshare", *("-p", "-m", "-C", "-i", "-u"), "--fork", "--kill-child=KILL"]
    script = ["sh", "-c", BOOT, "boot", str(base), *map(str, shown)]
    enter = ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(cgroup)]
    guard = ["setpriv", "--pdeathsig", "KILL"]  # so that a killed test run takes all of it along
    with tempfile.TemporaryFile() as written:
        process = subprocess.Popen(
            [*guard, *enter, *unshare, *script],
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            env={**os.environ, "SYSTEMD": str(SYSTEMD)},
        )
        try:
            pid = _wait_until_up(process)
            if not pid:
                written.seek(0)
                raise NotBooted(written.read().decode(errors="replace").strip())
            yield Booted(pid)
        finally:
            process.kill()
            process.wait()
            _remove(cgroup)
            shutil.rmtree(base, ignore_errors=True)


def _wait_until_up(process: subprocess.Popen[bytes]) -> int:
    """Pid of its process 1, once it answers; 0 when it does not."""
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while time.monotonic() < deadline and process.poll() is None:
        for pid in children.read_text().split():
            root = Path(f"/proc/{pid}/root")
            with contextlib.suppress(OSError):
                booted = Path(f"/proc/{pid}/comm").read_text() == "systemd\n"
                if booted and (root / "run/systemd/private").exists():
                    return int(pid)
        time.sleep(0.02)
    return 0


def _cgroups() -> Path | None:
    """Where cgroup2 is mounted."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    return None


def _remove(cgroup: Path) -> None:
    """Its processes have just been killed; the groups are empty within moments."""
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    while cgroup.exists() and time.monotonic() < deadline:
        for folder in sorted(cgroup.rglob("*/"), key=lambda path: -len(path.parts)):
            with contextlib.suppress(OSError):
                folder.rmdir()
        with contextlib.suppress(OSError):
            cgroup.rmdir()
        time.sleep(0.02)


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
