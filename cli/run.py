"""`voicerelay run`: one process of an instance, as a service manager starts it."""

import json
import os
from pathlib import Path

import click

from voicerelay.cli import network
from voicerelay.cli.config import Config
from voicerelay.cli.errors import UserError
from voicerelay.cli.options import config_option, sources_of
from voicerelay.shm import rundir
from voicerelay.shm.notify import Managed

CONTROL, RELAY, TRANSCEIVER, ADMIN = "control", "relay", "transceiver", "admin"


@click.command()
@click.argument("role", type=click.Choice((CONTROL, RELAY, TRANSCEIVER, ADMIN)))
@click.argument("index", type=click.IntRange(0), default=0)
@config_option
@click.pass_context
def run(ctx: click.Context, role: str, index: int, config_file: Path | None) -> None:
    """One process of an instance, for systemd: control, relay INDEX, transceiver INDEX or admin.

    Sockets come by LISTEN_FDS; NOTIFY_SOCKET hears of readiness and of the work going on.
    """
    managed = Managed(os.environ, os.getpid())
    config = sources_of(ctx, config_file).config()
    if role == CONTROL:
        run_control(config, managed)
    elif role == RELAY:
        run_relay(config, index, managed)
    elif role == TRANSCEIVER:
        run_transceiver(config, index, managed)
    else:
        run_admin(config, managed)
    if managed.failed:
        raise SystemExit(UserError.exit_code)


def run_control(config: Config, managed: Managed) -> None:
    """Raises UserError."""
    from voicerelay.cli.managed import Inheritance  # noqa: PLC0415  (`status` needs none of these)
    from voicerelay.control.process import main  # noqa: PLC0415

    inherited = Inheritance(config, managed)
    main(inherited.settings(), managed)


def run_relay(config: Config, index: int, managed: Managed) -> None:
    """Until it is told to stop."""
    from voicerelay.cli.roles import relay_settings  # noqa: PLC0415
    from voicerelay.relay.process import main  # noqa: PLC0415

    main(relay_settings(config, index), managed)


def run_transceiver(config: Config, slot: int, managed: Managed) -> None:
    """Raises UserError."""
    from voicerelay.cli.roles import transceiver_settings  # noqa: PLC0415
    from voicerelay.transceiver.process import main  # noqa: PLC0415

    hosts = network.candidate_hosts(listen_hosts(config.run_dir), list(config.public_ip))
    candidates = [(host, config.port) for host in hosts]
    main(transceiver_settings(config, slot, candidates), managed)


def run_admin(config: Config, managed: Managed) -> None:
    """Raises UserError."""
    from voicerelay.cli.admin.process import main  # noqa: PLC0415
    from voicerelay.cli.roles import admin_settings  # noqa: PLC0415

    if config.admin_address is None:
        raise UserError("the configuration has no --admin; run `voicerelay systemd install` again")
    main(admin_settings(config), managed)


def listen_hosts(run_dir: Path) -> list[str]:
    """The listen addresses, as control has written them down; control is ready before we start.

    Raises click.ClickException, which is no error in the configuration: another try may do.
    """
    try:
        described = json.loads((run_dir / rundir.INSTANCE_FILE).read_text())
        return [str(host) for host in described["listen"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise click.ClickException(f"control has not begun in {run_dir}") from None
