"""`voicerelay systemd print|install`: units, sysusers, tmpfiles and sysctl snippets for a configuration."""

import os
import socket
import sys
from dataclasses import replace
from pathlib import Path

import click

import voicerelay
from voicerelay.cli import network
from voicerelay.cli.config import DEFAULT_APP, Config
from voicerelay.cli.errors import UserError
from voicerelay.cli.run import configured
from voicerelay.cli.units import RUN, Plan, render
from voicerelay.relay import steering
from voicerelay.shm.bpf import BpfUnavailable
from voicerelay.shm.region import MIN_CAPACITY, Sizes

NEXT = """\
next, as root:
  systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload
  systemctl enable --now voicerelay.target
then look: voicerelay status, systemctl status 'voicerelay*', journalctl -u 'voicerelay*'"""


@click.group()
def systemd() -> None:
    """Run it under systemd, which then is the supervisor."""


@systemd.command("print")
@click.option("--config", "config_file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--app-dir", type=click.Path(path_type=Path, file_okay=False))
def print_(config_file: Path | None, app_dir: Path | None) -> None:
    """Show the files, each after a line with its place below /etc."""
    for place, text in render(make_plan(config_file, app_dir)).items():
        click.echo(f"### {place}\n{text}")


@systemd.command()
@click.option("--config", "config_file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--app-dir", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("/etc"),
    show_default=True,
    help="What stands for /etc.",
)
def install(config_file: Path | None, app_dir: Path | None, directory: Path) -> None:
    """Write the files and say what to do next; run it again after a change of the configuration."""
    files = render(make_plan(config_file, app_dir))
    try:
        for place, text in files.items():
            target = directory / place
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
            click.echo(f"wrote {target}")
    except OSError as exc:
        raise UserError(f"cannot write below {directory}: {exc.strerror}") from None
    click.echo(NEXT)


def make_plan(config_file: Path | None, app_dir: Path | None) -> Plan:
    """For the configuration, on this host, with this interpreter. Raises UserError."""
    if config_file is not None:
        os.environ["VOICERELAY_CONFIG"] = str(config_file.absolute())
    config = configured()
    config = replace(config, run_dir=RUN / "voicerelay" / str(config.port))
    hosts = network.expand(list(config.listen))
    if config.app != DEFAULT_APP and not config.backend:
        app_dir = (app_dir or Path.cwd()).absolute()
    keys = (config.api_key_file, config.ice_servers, Path(config.backend_key_file or "/"))
    reads = [path for path in (config_file, app_dir, *keys) if path is not None]
    packages = [Path(path).parent for path in voicerelay.__path__]
    return Plan(
        config=config,
        hosts=hosts,
        steered=decide_steering(config),
        command=[sys.executable, "-P", "-m", "voicerelay"],
        config_file=config_file.absolute() if config_file else None,
        app_dir=app_dir,
        reads=(Path(sys.prefix), Path(sys.base_prefix), *packages, *reads),
    )


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
