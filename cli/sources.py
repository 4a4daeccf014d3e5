"""Where each setting comes from: option, then variable, then voicerelay.toml, then default."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from voicerelay.cli.config import (
    Config,
    ConfigError,
    default_run_dir,
    default_transceivers,
    parse_http,
    parse_origins,
)
from voicerelay.cli.configfile import ConfigFile
from voicerelay.cli.errors import UserError
from voicerelay.cli.settings import BY_NAME, DEFAULT_HTTP, SETTINGS, Setting

FLAG, VARIABLE, FILE, DEFAULT = "flag", "variable", "file", "default"


@dataclass(frozen=True)
class Found:
    """A setting's value; `place`: the variable, or the file and line, that gave it."""

    value: Any
    source: str
    place: str = ""

    @property
    def shown(self) -> str:
        """The source for a person: flag, env NAME, FILE:LINE, default."""
        if self.source == VARIABLE:
            return f"env {self.place}"
        return self.place or self.source


@dataclass(frozen=True)
class Sources:
    """Every setting as it was found, and what was wrong on the way (a default stands there then)."""

    found: dict[str, Found]
    faults: list[str]
    file: Path | None = None

    def __getitem__(self, name: str) -> Any:
        return self.found[name].value

    def strongest(self, *names: str) -> dict[str, Any]:
        """What the strongest source that says anything of `names` says; empty when none does."""
        for source in (FLAG, VARIABLE, FILE):
            said = {name: self[name] for name in names if self.found[name].source == source}
            if said:
                return said
        return {}

    def config(self) -> Config:
        """The configuration. Raises ConfigError, with everything that is wrong."""
        values = {setting.field: self[setting.name] for setting in SETTINGS}
        faults: list[str] = []
        http, origins = values.pop("http"), values.pop("cors_origin")
        try:
            http_host, http_port = parse_http(http)
        except UserError as exc:
            faults.append(exc.message)
            http_host, http_port = parse_http(DEFAULT_HTTP)
        try:
            cors_origins = parse_origins(origins)
        except UserError as exc:
            faults.append(exc.message)
            cors_origins = ()
        values |= {
            "transceivers": self.effective("transceivers"),
            "run_dir": self.effective("run-dir"),
            "api_key_file": _absolute(values["api_key_file"]),
            "ice_servers": _absolute(values["ice_servers"]),
            "call_records": records_target(values["call_records"]),
            "backend_key_file": str(_absolute(values["backend_key_file"]) or ""),
        }
        try:
            config = Config(
                http_host=http_host, http_port=http_port, cors_origins=cors_origins, **values
            )
        except ConfigError as exc:
            faults += exc.faults
        if faults or self.faults:
            raise ConfigError([*self.faults, *(self.as_given(fault) for fault in faults)])
        return config

    def effective(self, name: str) -> Any:
        """A value, with what is meant where there is no default."""
        value = self[name]
        if name == "transceivers" and value is None:
            return default_transceivers()
        if name == "run-dir":
            return (value or default_run_dir(self["port"])).absolute()
        return value

    def as_given(self, fault: str) -> str:
        """A fault that names an option, with the variable or the file's line that said so."""
        option, _, rest = fault.partition(": ")
        for name, found in self.found.items():
            if rest and option == BY_NAME[name].option:
                return f"{_label(BY_NAME[name], found.source, found.place)}: {rest}"
        return fault


def records_target(text: str) -> str:
    """Where call records go; a path is meant from the working directory."""
    return text if text in ("", "-", "journal") else str(Path(text).absolute())


def gather(
    flags: Mapping[str, Any],
    variables: Mapping[str, str],
    file: ConfigFile | None = None,
    names: Iterable[str] = tuple(BY_NAME),
) -> Sources:
    """Find each setting of `names`; `flags` by the setting's name, only those that were given."""
    faults = list(file.faults) if file else []
    found = {}
    for name in names:
        setting = BY_NAME[name]
        if name in flags:
            found[name] = Found(flags[name], FLAG)
            continue
        if text := variables.get(setting.variable):  # an empty one is none
            source, place, value = VARIABLE, setting.variable, _of_text(setting, text)
        elif file and name in file.values:
            source, place, value = FILE, file.place(name), file.values[name]
        else:
            found[name] = Found(setting.default, DEFAULT)
            continue
        try:
            found[name] = Found(_converted(setting, value), source, place)
        except click.BadParameter as exc:
            faults.append(f"{_label(setting, source, place)}: {exc.message}")
            found[name] = Found(setting.default, DEFAULT)
    return Sources(found, faults, file.path if file else None)


def click_type(setting: Setting) -> "click.ParamType[Any]":
    """What reads one value of a setting from text."""
    if setting.choices:
        return click.Choice(setting.choices)
    if setting.kind is Path:
        return click.Path(
            path_type=Path, dir_okay=setting.directory, file_okay=not setting.directory
        )
    return {int: click.INT, bool: click.BOOL}.get(setting.kind, click.STRING)


def _of_text(setting: Setting, text: str) -> Any:
    return tuple(text.split()) if setting.kind is tuple else text


def _converted(setting: Setting, value: Any) -> Any:
    """Raises click.BadParameter."""
    return value if setting.kind is tuple else click_type(setting).convert(value, None, None)


def _label(setting: Setting, source: str, place: str) -> str:
    if source == VARIABLE:
        return f"{setting.option} ({place})"
    return f"{place}: {setting.name}" if source == FILE else setting.option


def _absolute(path: Path | None) -> Path | None:
    return path.absolute() if path else None
