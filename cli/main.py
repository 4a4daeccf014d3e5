"""The command line: `voicerelay start`, `voicerelay status`, and the others by name."""

import asyncio
import json
from pathlib import Path

import click

from voicerelay import __version__
from voicerelay.cli.check import check_config, print_config
from voicerelay.cli.config import DEFAULT_APP, Config
from voicerelay.cli.dev import dev
from voicerelay.cli.doctor.command import doctor
from voicerelay.cli.errors import OneLineGroup
from voicerelay.cli.init import init
from voicerelay.cli.loadtest.command import loadtest
from voicerelay.cli.man import completion, man
from voicerelay.cli.network import host_port
from voicerelay.cli.options import sources_of, with_settings
from voicerelay.cli.rolling import drain, reload, stop, upgrade
from voicerelay.cli.run import run
from voicerelay.cli.sessions import sessions
from voicerelay.cli.sources import Sources
from voicerelay.cli.status import read_status, render, with_instance
from voicerelay.cli.systemd import systemd
from voicerelay.cli.token import token
from voicerelay.cli.top.command import top
from voicerelay.shm import logs
from voicerelay.transceiver.signalling.cors import is_loopback


@click.group(cls=OneLineGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="voicerelay")
def main() -> None:
    """Thousands of live WebRTC voice calls behind one UDP port."""


@main.command()
@with_settings
def start(sources: Sources) -> None:
    """Run relays, transceivers and control, and serve APP (module:attribute).

    Without APP the calls are answered by an echo. Each option may come from the environment instead
    (VOICERELAY_PORT, …) or from voicerelay.toml; see `voicerelay print-config`.
    """
    # Here, so that `status` is quick.
    from voicerelay.cli import succession  # noqa: PLC0415
    from voicerelay.cli.supervisor import Supervisor  # noqa: PLC0415

    config = sources.config()
    logs.set_up("supervisor", config.log_level, config.log_format)
    estate, asked = succession.inherited()
    if asked:
        succession.answer(estate, config)
        return
    ctx = click.get_current_context()
    supervisor = Supervisor(
        config, lambda: sources_of(ctx, ctx.params["config_file"]).config(), estate
    )
    if supervisor.prepare():
        click.echo("removed what an earlier run had left behind")
    if supervisor.portable_because and config.steering != "off":
        click.echo(f"kernel steering is off: {supervisor.portable_because}")
    try:
        asyncio.run(
            supervisor.run(lambda: click.echo(banner(config, supervisor.hosts, supervisor.steered)))
        )
    finally:
        supervisor.release()
    click.echo("voicerelay has stopped")


@main.command()
@with_instance
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(run_dir: Path, as_json: bool) -> None:
    """Show processes, sockets, routes, flows, sessions, packets and drops."""
    found = read_status(run_dir)
    click.echo(json.dumps(found, indent=2) if as_json else render(found))


for command in (init, dev, check_config, print_config, token):
    main.add_command(command)
for command in (drain, reload, upgrade, stop):
    main.add_command(command)
for command in (top, sessions, doctor, loadtest):
    main.add_command(command)
for command in (run, systemd, completion, man):
    main.add_command(command)


def banner(config: Config, hosts: list[str], steered: bool) -> str:
    """What a person sees once everything is up."""
    shown = "localhost" if config.http_host in ("127.0.0.1", "::1") else config.http_host
    return "\n".join(
        [
            f"voicerelay is ready: open http://{host_port(shown, config.http_port)}/"
            + (" and press Call" if config.app == DEFAULT_APP else ""),
            f"  media   UDP port {config.port} on {', '.join(hosts)}",
            f"  plane   {'kernel steering' if steered else 'portable'}",
            f"  agent   {config.agent}",
            f"  calls   {config.callers}",
            f"  runs    {config.relays} relays, {config.transceivers} transceivers, 1 control",
            *_admin_line(config),
            "  stop    Ctrl-C     look: voicerelay status",
        ]
    )


def _admin_line(config: Config) -> list[str]:
    """Where operators look, and who else can."""
    if config.admin_address is None:
        return []
    host, port = config.admin_address
    warning = "" if is_loopback(host) else "  (open to whoever reaches it)"
    return [f"  admin   http://{host_port(host, port)}/{warning}"]
