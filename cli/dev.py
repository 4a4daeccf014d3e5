"""`voicerelay dev`: an agent on loopback with the demo page, started again when its code changes."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import click

from voicerelay.cli.config import ConfigError
from voicerelay.cli.options import SettingArgument, config_option, sources_of
from voicerelay.cli.settings import BY_NAME, DEFAULT_PORT, SETTINGS
from voicerelay.shm.lifeline import die_with_parent

LOOK_S = 0.5
STOP_TIMEOUT_S = 15.0  # the supervisor takes 12 s for three kinds of processes at the very most
MAX_FILES = 5000
DEFAULT_HTTP_PORT = 8080
_SKIPPED = ("__pycache__", "node_modules", "site-packages")


@click.command()
@click.argument("app", default=BY_NAME["app"].default, envvar="VOICERELAY_APP", cls=SettingArgument)
@click.option("--port", type=click.IntRange(1, 65535), default=DEFAULT_PORT, show_default=True)
@click.option(
    "--http-port",
    type=click.IntRange(1, 65535),
    default=DEFAULT_HTTP_PORT,
    show_default=True,
    help="Signalling and demo page, on loopback.",
)
@config_option
@click.pass_context
def dev(
    ctx: click.Context, /, app: str, port: int, http_port: int, config_file: Path | None
) -> None:
    """Serve APP on this machine only, and start it again when a .py file of it changes.

    One relay and one transceiver. Of voicerelay.toml only `app` counts here.
    """
    sources = sources_of(ctx, config_file, "app")
    if sources.faults:
        raise ConfigError(sources.faults)
    app = sources["app"]
    command = [sys.executable, "-P", "-m", "voicerelay", "start", app, *_options(port, http_port)]
    directory = directory_of(app, Path.cwd())
    click.echo(f"voicerelay dev: {app} on http://localhost:{http_port}/")
    click.echo(f"  a changed .py file below {directory} starts it again, Ctrl-C ends it")
    signal.signal(signal.SIGTERM, _interrupt)
    with contextlib.suppress(KeyboardInterrupt):
        serve(command, directory)


def serve(command: list[str], directory: Path) -> None:
    """Run the command for ever, each time until a file changes. KeyboardInterrupt ends it."""
    files = snapshot(directory)
    while True:
        with _running(command) as process:
            told = False
            while not (names := changed(files, now := snapshot(directory))):
                if process.poll() is not None and not told:
                    click.echo("voicerelay dev: it has ended; a change starts it again")
                    told = True
                time.sleep(LOOK_S)
            files = now
            click.echo(f"voicerelay dev: {', '.join(names[:3])} changed, starting again")


def directory_of(app: str, here: Path) -> Path:
    """Where the code of `module:attribute` stands: its package below here, else all that is here."""
    package = here / app.partition(":")[0].partition(".")[0]
    return package if package.is_dir() else here


def snapshot(directory: Path) -> dict[str, int]:
    """Modification time in ns of each .py file below, of MAX_FILES at most; not of environments."""
    found: dict[str, int] = {}
    for folder, folders, names in os.walk(directory):
        if "pyvenv.cfg" in names:
            folders.clear()
            continue
        folders[:] = [one for one in folders if one not in _SKIPPED and not one.startswith(".")]
        for name in names:
            path = os.path.join(folder, name)
            if name.endswith(".py") and len(found) < MAX_FILES:
                with contextlib.suppress(OSError):  # gone meanwhile
                    found[path] = os.stat(path).st_mtime_ns
    return found


def changed(before: dict[str, int], after: dict[str, int]) -> list[str]:
    """Names of files that are new, gone or changed."""
    paths = sorted(path for path in before | after if before.get(path) != after.get(path))
    return [os.path.basename(path) for path in paths]


def _options(port: int, http_port: int) -> list[str]:
    places = ["--listen", "127.0.0.1", "--port", str(port), "--http", f"127.0.0.1:{http_port}"]
    few = ["--relays", "1", "--transceivers", "1", "--no-pin", "--steering", "off"]
    return [*places, *few, "--config", os.devnull]


@contextlib.contextmanager
def _running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    variables = {setting.variable for setting in SETTINGS}
    ours = os.getpid()
    process = subprocess.Popen(
        command,
        env={name: text for name, text in os.environ.items() if name not in variables},
        preexec_fn=lambda: die_with_parent(ours),  # noqa: PLW1509  (there is no other thread)
        process_group=0,  # Ctrl-C comes to us alone, and we end it
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
