"""click's options, made from the table of settings; and the instance that a command is about."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from voicerelay.cli.configfile import find_config_file, read_config_file
from voicerelay.cli.settings import BY_NAME, SETTINGS, Setting
from voicerelay.cli.sources import Sources, click_type, gather

CONFIG_VARIABLE = "VOICERELAY_CONFIG"
Command = Callable[..., Any]


class _Told:
    """Knows its variable, for help and manual; `sources` reads it, so that no fault hides another."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        return None


class SettingOption(_Told, click.Option):
    pass


class SettingArgument(_Told, click.Argument):
    pass


config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar=CONFIG_VARIABLE,
    help="Settings in TOML. [default: voicerelay.toml here, else in /etc/voicerelay]",
)


def with_settings(command: Command) -> Command:
    """Give a command every setting; it is called with `sources` first."""

    @functools.wraps(command)
    @click.pass_context
    def run(ctx: click.Context, /, config_file: Path | None, **given: Any) -> Any:
        others = {key: given[key] for key in given if key not in _FIELDS}
        return command(sources_of(ctx, config_file), **others)

    wrapped: Command = config_option(run)
    for setting in reversed(SETTINGS):
        wrapped = _parameter(setting)(wrapped)
    return wrapped


def sources_of(
    ctx: click.Context, config_file: Path | None, *names: str, environ: dict[str, str] | None = None
) -> Sources:
    """Settings of a command's options, the environment and the file. Raises UserError."""
    wanted = [BY_NAME[name] for name in names] or list(SETTINGS)
    flags = {
        setting.name: ctx.params[setting.field]
        for setting in wanted
        if ctx.get_parameter_source(setting.field) is click.core.ParameterSource.COMMANDLINE
    }
    path = find_config_file(config_file)
    file = read_config_file(path) if path else None
    return gather(flags, environ or os.environ, file, [setting.name for setting in wanted])


_FIELDS = {setting.field for setting in SETTINGS}


def _parameter(setting: Setting) -> Command:
    if setting.name == "app":
        return click.argument(
            "app", default=setting.default, envvar=setting.variable, cls=SettingArgument
        )
    about = setting.help + (f" [default: {setting.unset}]" if setting.unset else "")
    names = f"--{setting.name}" + (f"/--no-{setting.name}" if setting.kind is bool else "")
    return click.option(
        names,
        setting.field,
        type=click_type(setting),
        multiple=setting.kind is tuple,
        default=setting.default,
        show_default=bool(setting.default) or setting.kind is bool,
        metavar=setting.metavar or None,
        envvar=setting.variable,
        help=about,
        cls=SettingOption,
    )
