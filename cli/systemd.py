"""`voicerelay systemd print|install`: units, sysusers, tmpfiles and sysctl snippets for a configuration."""

import socket
import sys
from dataclasses import replace
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

import click

import voicerelay
from voicerelay.cli import network
from voicerelay.cli.config import DEFAULT_APP, Config
from voicerelay.cli.errors import UserError
from voicerelay.cli.options import CONFIG_VARIABLE, with_settings
from voicerelay.cli.settings import BY_NAME, SETTINGS
from voicerelay.cli.sources import DEFAULT, FLAG, VARIABLE, Sources
from voicerelay.cli.units import RUN, Plan, render
from voicerelay.relay import steering
from voicerelay.shm.bpf import BpfUnavailable
from voicerelay.shm.region import MIN_CAPACITY, Sizes

ETC = Path("/etc")
NEXT = """\
next, as root:
  systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload
  systemctl enable --now voicerelay.target
then look: voicerelay status, systemctl status 'voicerelay*', journalctl -u 'voicerelay*'"""


@click.group()
def systemd() -> None:
    """Run it under systemd, which then is the supervisor."""


app_dir_option = click.option(
    "--app-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where APP is imported from. [default: the working directory]",
)


@systemd.command("print")
@app_dir_option
@with_settings
def print_(sources: Sources, app_dir: Path | None) -> None:
    """Show the files that `install` writes, each after a line with its place."""
    for place, text in render(make_plan(sources, app_dir)).items():
        click.echo(f"### {ETC / place}\n{text}")


@systemd.command()
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=ETC,
    show_default=True,
    help="What stands for /etc.",
)
@app_dir_option
@with_settings
def install(sources: Sources, directory: Path, app_dir: Path | None) -> None:
    """Write the units for APP and the settings, and say what to do next.

    Options and variables given here are written into the units; run it again to change them. The
    file named by --config is read at each start.
    """
    files = render(make_plan(sources, app_dir))
    try:
        for place, text in files.items():
            target = directory / place
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
            click.echo(f"wrote {target}")
    except OSError as exc:
        raise UserError(f"cannot write below {directory}: {exc.strerror}") from None
    click.echo(NEXT)


def make_plan(sources: Sources, app_dir: Path | None) -> Plan:
    """For these settings, on this host, with this interpreter. Raises UserError."""
    config = sources.config()
    run_dir = config.run_dir
    if sources.found["run-dir"].source == DEFAULT:
        run_dir = RUN / "voicerelay" / str(config.port)
    elif not run_dir.is_relative_to(RUN) or run_dir == RUN:
        raise UserError(f"--run-dir: {run_dir} is not below {RUN}, where systemd makes it")
    config = replace(config, run_dir=run_dir)
    imports = config.app != DEFAULT_APP and not config.backend
    app_dir = find_app(config.app, app_dir or Path.cwd()) if imports else None
    file = sources.file.absolute() if sources.file else None
    files = (file, app_dir, config.api_key_file, config.ice_servers, config.backend_key_file)
    return Plan(
        config=config,
        hosts=network.expand(list(config.listen)),
        steered=decide_steering(config),
        command=[sys.executable, "-P", "-m", "voicerelay"],
        environment=environment_of(sources, config, file),
        app_dir=app_dir,
        reads=(
            *map(Path, (sys.prefix, sys.base_prefix)),
            *(Path(place).parent for place in voicerelay.__path__),
            *(Path(one) for one in files if one),
        ),
    )


def find_app(target: str, directory: Path) -> Path:
    """The directory that the transceivers start in. Raises UserError when APP is not to be found."""
    module = target.partition(":")[0].partition(".")[0]
    found = None
    if module.isidentifier() and module != "__main__":
        here = PathFinder.find_spec(module, [str(directory.absolute())])
        found = here or find_spec(module)
    if found is None:
        raise UserError(f'APP: there is no module "{module}" in {directory}; give --app-dir')
    return directory.absolute()


def environment_of(sources: Sources, config: Config, file: Path | None) -> dict[str, str]:
    """What options and variables said, so that every process hears it too; the rest is in the file."""
    said = {
        setting.variable: _text(getattr(config, setting.field, sources[setting.name]))
        for setting in SETTINGS
        if sources.found[setting.name].source in (FLAG, VARIABLE)
    }
    if file is not None:
        said[CONFIG_VARIABLE] = str(file)
    # Fixed by the units, and not by what each process would find.
    said[BY_NAME["run-dir"].variable] = str(config.run_dir)
    if sources.found["transceivers"].source == DEFAULT:
        said[BY_NAME["transceivers"].variable] = str(config.transceivers)
    return said


def _text(value: object) -> str:
    return " ".join(value) if isinstance(value, tuple) else str(value)


def decide_steering(config: Config) -> bool:
    """Under systemd it is settled here, as the sockets depend on it: `auto` asks this kernel."""
    if config.steering == "off":
        return False
    try:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as relay,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as transceiver,
        ):
            for sock in (relay, transceiver):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            relay.bind(("127.0.0.1", 0))
            transceiver.bind(relay.getsockname())
            for group in steering.load(
                [[relay]], [[transceiver]], Sizes.for_capacity(MIN_CAPACITY)
            ):
                group.close()
    except BpfUnavailable as exc:
        if config.steering == "on":
            raise UserError(f"--steering on: {exc}") from None
        click.echo(f"units without kernel steering: {exc}", err=True)
        return False
    return True
