"""The command line: `voicerelay start`, `voicerelay token` and `voicerelay status`."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import click

from voicerelay import __version__
from voicerelay.cli.config import (
    DEFAULT_APP,
    DEFAULT_CAPACITY,
    DEFAULT_COALESCE_US,
    DEFAULT_HTTP,
    DEFAULT_MAX_SESSIONS,
    DEFAULT_PORT,
    DEFAULT_RELAYS,
    DEFAULT_STEERING,
    STEERING,
    Config,
    default_run_dir,
    default_transceivers,
    parse_http,
    parse_origins,
)
from voicerelay.cli.errors import OneLineGroup
from voicerelay.cli.network import host_port
from voicerelay.cli.status import find_run_dir, read_status, render
from voicerelay.cli.token import token

LOG_LEVELS = ("debug", "info", "warning", "error")


@click.group(cls=OneLineGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="voicerelay")
def main() -> None:
    """Thousands of live WebRTC voice calls behind one UDP port."""


@main.command()
@click.argument("app", default=DEFAULT_APP, envvar="VOICERELAY_APP")
@click.option(
    "--port",
    type=int,
    default=DEFAULT_PORT,
    show_default=True,
    envvar="VOICERELAY_PORT",
    help="The one UDP port for all calls.",
)
@click.option(
    "--listen",
    multiple=True,
    metavar="ADDR",
    envvar="VOICERELAY_LISTEN",
    help="IP address to listen on, may be given again; 0.0.0.0 and :: mean all of the host's. "
    "[default: the host's primary address]",
)
@click.option(
    "--public-ip",
    multiple=True,
    metavar="ADDR",
    envvar="VOICERELAY_PUBLIC_IP",
    help="Address that clients reach when a NAT stands before --listen; may be given again.",
)
@click.option(
    "--http",
    default=DEFAULT_HTTP,
    show_default=True,
    metavar="HOST:PORT",
    envvar="VOICERELAY_HTTP",
    help="Signalling and demo page. Put TLS in front of it for others than this machine.",
)
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="VOICERELAY_API_KEY_FILE",
    help="Who calls must bring a key of this file, one `key` or `name:key` a line, or a token "
    "made of one (`voicerelay token`). Without it --http must be on loopback.",
)
@click.option(
    "--open",
    is_flag=True,
    envvar="VOICERELAY_OPEN",
    help="Let anybody call who reaches --http; for a proxy in front that knows its users.",
)
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    metavar="ORIGIN",
    envvar="VOICERELAY_CORS_ORIGIN",
    help="Web pages that may call from elsewhere, may be given again; * for all. "
    "[default: all with --api-key-file, else those of this machine]",
)
@click.option(
    "--sessions-per-key",
    type=int,
    default=0,
    envvar="VOICERELAY_SESSIONS_PER_KEY",
    help="Calls at once that one key and its tokens may have. [default: no cap]",
)
@click.option(
    "--ice-servers",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="VOICERELAY_ICE_SERVERS",
    help="STUN and TURN servers that clients are told of: a JSON file, as RTCConfiguration's iceServers.",
)
@click.option(
    "--relays",
    type=int,
    default=DEFAULT_RELAYS,
    show_default=True,
    envvar="VOICERELAY_RELAYS",
    help="Relay processes.",
)
@click.option(
    "--transceivers",
    type=int,
    envvar="VOICERELAY_TRANSCEIVERS",
    help="Transceiver processes. [default: one a core]",
)
@click.option(
    "--max-sessions",
    type=int,
    default=DEFAULT_MAX_SESSIONS,
    show_default=True,
    envvar="VOICERELAY_MAX_SESSIONS",
    help="Calls a transceiver takes at most; more are refused with 503.",
)
@click.option(
    "--pin/--no-pin",
    default=True,
    show_default=True,
    envvar="VOICERELAY_PIN",
    help="Keep each transceiver on a core of its own.",
)
@click.option(
    "--capacity",
    type=int,
    default=DEFAULT_CAPACITY,
    show_default=True,
    envvar="VOICERELAY_CAPACITY",
    help="Calls the shared tables have room for.",
)
@click.option(
    "--steering",
    type=click.Choice(STEERING),
    default=DEFAULT_STEERING,
    show_default=True,
    envvar="VOICERELAY_STEERING",
    help="Let the kernel hand packets of established calls to their transceiver (needs CAP_BPF). "
    "auto: where it can, else through the relays; on: refuse to start where it cannot.",
)
@click.option(
    "--coalesce-us",
    type=int,
    default=DEFAULT_COALESCE_US,
    show_default=True,
    envvar="VOICERELAY_COALESCE_US",
    help="Microseconds a busy relay waits for more packets; a lone packet never waits.",
)
@click.option(
    "--backend",
    default="",
    metavar="URL",
    envvar="VOICERELAY_BACKEND",
    help="Instead of APP: bridge each call to this server of the Realtime WebSocket protocol.",
)
@click.option(
    "--backend-key-file",
    default="",
    metavar="FILE",
    envvar="VOICERELAY_BACKEND_KEY_FILE",
    help="Holds the backend's API key; clients never see it.",
)
@click.option(
    "--backend-vad",
    is_flag=True,
    envvar="VOICERELAY_BACKEND_VAD",
    help='Detect turns here, for a backend that does not. Needs the extra "vad".',
)
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="VOICERELAY_RUN_DIR",
    help="Directory of the instance's sockets. [default: one for each port and user]",
)
@click.option(
    "--log-level",
    type=click.Choice(LOG_LEVELS),
    default="info",
    show_default=True,
    envvar="VOICERELAY_LOG_LEVEL",
)
def start(
    http: str,
    run_dir: Path | None,
    transceivers: int | None,
    api_key_file: Path | None,
    cors_origins: tuple[str, ...],
    ice_servers: Path | None,
    **given: Any,
) -> None:
    """Run relays, transceivers and control, and serve APP (module:attribute).

    Without APP the calls are answered by an echo.
    """
    from voicerelay.cli.supervisor import Supervisor  # noqa: PLC0415  (keeps `status` quick)

    http_host, http_port = parse_http(http)
    config = Config(
        http_host=http_host,
        http_port=http_port,
        transceivers=default_transceivers() if transceivers is None else transceivers,
        run_dir=(run_dir or default_run_dir(given["port"])).absolute(),
        api_key_file=api_key_file.absolute() if api_key_file else None,
        cors_origins=parse_origins(cors_origins),
        ice_servers=ice_servers.absolute() if ice_servers else None,
        **given,
    )
    logging.basicConfig(
        level=config.log_level.upper(), format="%(levelname)s supervisor: %(message)s"
    )
    supervisor = Supervisor(config)
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
@click.option("--port", type=int, help="UDP port of the instance, when several run.")
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path),
    envvar="VOICERELAY_RUN_DIR",
    help="Its run directory, if it has one of its own.",
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(port: int | None, run_dir: Path | None, as_json: bool) -> None:
    """Show processes, sockets, routes, flows, sessions, packets and drops."""
    found = read_status(find_run_dir(run_dir.absolute() if run_dir else None, port))
    click.echo(json.dumps(found, indent=2) if as_json else render(found))


main.add_command(token)


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
            "  stop    Ctrl-C     look: voicerelay status",
        ]
    )
