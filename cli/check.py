"""`voicerelay check-config` and `voicerelay print-config`: what would start, and from where it comes."""

import json
from pathlib import Path
from typing import Any

import click

from voicerelay.cli import network
from voicerelay.cli.config import Config, ConfigError
from voicerelay.cli.configfile import literal, render_toml
from voicerelay.cli.errors import UserError
from voicerelay.cli.options import with_settings
from voicerelay.cli.settings import SETTINGS
from voicerelay.cli.sources import DEFAULT, Sources
from voicerelay.transceiver.settings import AccessSettings, TransceiverSettings


@click.command("check-config")
@with_settings
def check_config(sources: Sources) -> None:
    """Check what `start` with the same APP and options would have; says "ok", or each fault.

    APP is imported. Nothing is started and no port is taken.
    """
    faults = list_faults(sources)
    for fault in faults:
        click.echo(f"voicerelay: error: {fault}", err=True)
    if faults:
        raise SystemExit(UserError.exit_code)
    click.echo(f"ok ({sources.file})" if sources.file else "ok")


def list_faults(sources: Sources) -> list[str]:
    """All that would keep it from starting, a line each."""
    try:
        config = sources.config()
    except ConfigError as exc:
        return exc.faults
    faults = []
    try:
        network.candidate_hosts(network.expand(list(config.listen)), list(config.public_ip))
    except UserError as exc:
        faults.append(sources.as_given(exc.message))
    return faults + [sources.as_given(fault) for fault in _faults_of_app(config)]


def _faults_of_app(config: Config) -> list[str]:
    """As a transceiver would find them at its start."""
    from voicerelay.transceiver.agent import App, AppError, load_app  # noqa: PLC0415  (numpy)
    from voicerelay.transceiver.signalling.access import objection  # noqa: PLC0415  (aiohttp)

    try:
        asgi = not (config.backend or isinstance(load_app(config.app), App))
    except AppError as exc:
        return [str(exc)]
    access = AccessSettings(api_key_file=str(config.api_key_file or ""), open=config.open)
    fault = objection(
        TransceiverSettings(
            run_dir="",
            slot=0,
            app=config.app,
            http_host=config.http_host,
            http_port=config.http_port,
            candidates=[],
            max_sessions=config.max_sessions,
            access=access,
        ),
        asgi,
    )
    return [fault] if fault else []


@click.command("print-config")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--toml", "as_toml", is_flag=True, help="As a voicerelay.toml, with comments.")
@with_settings
def print_config(sources: Sources, as_json: bool, as_toml: bool) -> None:
    """Show every setting, its value, and what gave it: flag, variable, file and line, or default."""
    sources.config()
    effective = {setting.name: sources.effective(setting.name) for setting in SETTINGS}
    if as_toml:
        given = {name: one.value for name, one in sources.found.items() if one.source != DEFAULT}
        click.echo(render_toml(given), nl=False)
    elif as_json:
        shown = {
            name: {"value": _plain(value), "source": sources.found[name].shown}
            for name, value in effective.items()
        }
        click.echo(json.dumps(shown, indent=2))
    else:
        width = max(len(name) for name in effective)
        texts = {name: "" if v is None else literal(v) for name, v in effective.items()}
        column = max(len(text) for text in texts.values())
        for name, text in texts.items():
            click.echo(f"{name:<{width}}  {text:<{column}}  {sources.found[name].shown}")


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
