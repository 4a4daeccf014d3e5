"""voicerelay.toml: read strictly, each fault with its place and how to mend it; and written."""

import difflib
import json
import re
import textwrap
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from voicerelay.cli.errors import UserError
from voicerelay.cli.settings import BY_NAME, SETTINGS, Setting

FILE_NAME = "voicerelay.toml"
SYSTEM_FILE = Path("/etc/voicerelay") / FILE_NAME
MAX_FILE_BYTES = 64 << 10
NEAR = 0.5  # how alike two names must be for one to be meant by the other
COLUMNS = 100
HEAD = """\
# Settings of `voicerelay start`. A key is an option's name; options and VOICERELAY_* variables are stronger.
# Relative paths are meant from this file's directory. What begins with "#" is the default, or an example.
"""


@dataclass(frozen=True)
class ConfigFile:
    """What a file sets, by the setting's name, and where; `faults` are lines for the user."""

    path: Path
    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def place(self, key: str) -> str:
        """FILE:LINE of a key."""
        return f"{self.path}:{self.lines[key]}" if key in self.lines else str(self.path)


def find_config_file(named: Path | None) -> Path | None:
    """The file that counts: the named one, else that of the working directory, else the system's."""
    if named is not None:
        return named
    return next((path for path in (Path(FILE_NAME), SYSTEM_FILE) if path.exists()), None)


def read_config_file(path: Path) -> ConfigFile:
    """Raises UserError when it cannot be read or is no TOML; all else that is wrong is in `faults`."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else exc
        raise UserError(f"--config: {path} cannot be read: {why}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise UserError(f"--config: {path} has more than {MAX_FILE_BYTES} bytes")
    try:
        text = raw.decode()
        found = tomllib.loads(text)
    except UnicodeDecodeError as exc:
        raise UserError(f"{path}: byte {exc.start} is not UTF-8; save it as UTF-8") from None
    except (ValueError, RecursionError) as exc:
        raise UserError(f"{path}: is not TOML: {exc}; write lines such as port = 3478") from None
    file_found = ConfigFile(path, lines=_lines_of(text))
    for key, value in found.items():
        setting = BY_NAME.get(key)
        fault = _unknown(key, value) if setting is None else _mistyped(setting, value)
        if fault:
            file_found.faults.append(f"{file_found.place(key)}: {key}: {fault}")
        elif setting is not None:
            file_found.values[key] = _value(setting, value, path)
    return file_found


def _lines_of(text: str) -> dict[str, int]:
    """Where each key stands; tomllib does not say."""
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if match := re.match(r"""\s*\[*\s*["']?([A-Za-z0-9_-]+)["']?\s*[=.\]]""", line):
            lines.setdefault(match[1], number)
    return lines


def _unknown(key: str, value: object) -> str:
    near = difflib.get_close_matches(key.replace("_", "-"), BY_NAME, n=1, cutoff=NEAR)
    mend = (
        f'the nearest is "{near[0]}"' if near else "voicerelay print-config --toml shows all keys"
    )
    if isinstance(value, dict):
        return f"there are no sections; write its keys at the top ({mend})"
    return f"there is no such key; {mend}"


def _mistyped(setting: Setting, value: Any) -> str:
    """What is wrong with the type of a value; empty when nothing is."""
    texts = value if isinstance(value, list) else [value]
    if setting.kind is bool:
        return "" if isinstance(value, bool) else "must be true or false"
    if setting.kind is int:
        right = isinstance(value, int) and not isinstance(value, bool)
        return "" if right else "must be a whole number, without quotes"
    if setting.kind is not tuple and isinstance(value, list):
        return "must be one text in quotes, not several"
    if not all(isinstance(text, str) for text in texts):
        return "must be a text in quotes"
    if any(not text.isprintable() for text in texts):
        return "must have no control characters"
    return ""


def _value(setting: Setting, value: Any, path: Path) -> Any:
    if setting.kind is tuple:
        return (value,) if isinstance(value, str) else tuple(value)
    if setting.kind is Path:
        return path.absolute().parent / value
    return value


# ---- writing it ----------------------------------------------------------------------------------


def render_toml(given: Mapping[str, Any]) -> str:
    """A whole file with every setting and its help; those of `given` are set, the others shown."""
    lines = [HEAD]
    group = ""
    for setting in SETTINGS:
        if setting.group != group:
            group = setting.group
            lines.append(f"# ---- {group} ".ljust(COLUMNS, "-") + "\n")
        about = setting.help + (f" Default: {setting.unset}." if setting.unset else "")
        if setting.choices:
            about += f" One of: {', '.join(setting.choices)}."
        lines += [f"# {line}" for line in textwrap.wrap(about, COLUMNS, break_on_hyphens=False)]
        if setting.name in given:
            lines.append(f"{setting.name} = {literal(given[setting.name])}\n")
        else:
            shown = setting.default if setting.example is None else setting.example
            lines.append(f"#{setting.name} = {literal(shown)}\n")
    return "\n".join(lines)


def literal(value: Any) -> str:
    """A value as TOML writes it; JSON's strings, numbers and lists are TOML's too."""
    plain = str(value) if isinstance(value, Path) else value
    return json.dumps(plain, ensure_ascii=False)
