"""One configuration, built once from the command line and the environment, and passed down."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from voicerelay.cli.errors import UserError
from voicerelay.cli.settings import (
    DEFAULT_APP,
    DEFAULT_COALESCE_US,
    DEFAULT_HTTP,
    DEFAULT_MAX_SESSIONS,
    DEFAULT_PORT,
    DEFAULT_RELAYS,
    DEFAULT_STEERING,
    MAX_COALESCE_US,
    SETTINGS,
    STEERING,
)
from voicerelay.shm.counters import MAX_TRANSCEIVERS
from voicerelay.shm.order import DEFAULT_DRAIN_DEADLINE_S
from voicerelay.shm.region import DEFAULT_CAPACITY
from voicerelay.transceiver.signalling.cors import is_loopback, parse_origin
from voicerelay.transceiver.signalling.iceservers import IceServersError, read_ice_servers
from voicerelay.transceiver.signalling.keyfile import read_keys
from voicerelay.transceiver.signalling.keys import KeyFileError, Keys

BACKEND_HINT = "wss://api.openai.com/v1/realtime?model=gpt-realtime"
MAX_RUN_DIR_BYTES = 80  # a Unix socket's path has at most 107
_HTTP = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>[^:\[\]]+)):(?P<port>[0-9]{1,5})")


class ConfigError(UserError):
    """Everything that is wrong with a configuration; the message tells the first and how many more."""

    def __init__(self, faults: Sequence[str]) -> None:
        more = len(faults) - 1
        super().__init__(
            faults[0] + (f" (and {more} more: voicerelay check-config)" if more else "")
        )
        self.faults = list(faults)


@dataclass(frozen=True)
class Config:
    """Everything `voicerelay start` needs to know. `listen` and `public_ip` as the user gave them."""

    app: str
    port: int
    listen: tuple[str, ...]
    public_ip: tuple[str, ...]
    http_host: str
    http_port: int
    relays: int
    transceivers: int
    max_sessions: int
    capacity: int
    run_dir: Path
    log_level: str
    steering: str = DEFAULT_STEERING
    coalesce_us: int = DEFAULT_COALESCE_US
    pin: bool = True
    backend: str = ""
    backend_key_file: str = ""
    backend_vad: bool = False
    api_key_file: Path | None = None
    cors_origins: tuple[str, ...] = ()
    open: bool = False
    ice_servers: Path | None = None
    sessions_per_key: int = 0
    log_format: str = "auto"
    admin: str = ""
    call_records: str = ""
    drain_deadline: int = DEFAULT_DRAIN_DEADLINE_S

    def __post_init__(self) -> None:
        faults = list(self._faults())
        if faults:
            raise ConfigError(faults)

    def _faults(self) -> Iterator[str]:
        """Everything that is wrong, a line each, which begins with the option."""
        for setting in SETTINGS:
            if setting.bounds and (fault := setting.out_of_bounds(getattr(self, setting.field))):
                yield f"{setting.option}: {fault}"
        if len(str(self.run_dir.absolute()).encode()) > MAX_RUN_DIR_BYTES:
            yield f"--run-dir: the path has more than {MAX_RUN_DIR_BYTES} bytes"
        yield from self._backend_faults()
        if self.admin:
            try:
                parse_http(self.admin, "--admin")
            except UserError as exc:
                yield exc.message
        if self.api_key_file is not None:
            try:
                load_keys(self.api_key_file)
            except UserError as exc:
                yield exc.message
        try:
            if self.ice_servers is not None:
                read_ice_servers(str(self.ice_servers))
        except IceServersError as exc:
            yield f"--ice-servers: {self.ice_servers} {exc}"

    @property
    def callers(self) -> str:
        """Who may call, for the one who starts it."""
        if self.api_key_file is not None:
            return "with an API key or token"
        if self.open:
            return "open to anybody (--open)"
        if is_loopback(self.http_host):
            return "open to anybody on this machine"
        return "as the application decides"  # the transceivers start with an ASGI application only

    @property
    def agent(self) -> str:
        """Who speaks with the callers, for a person to read; no key can be in it."""
        return f"Realtime backend at {_host_of(self.backend)}" if self.backend else self.app

    @property
    def admin_address(self) -> tuple[str, int] | None:
        """Host and port of the admin process; None when there is none."""
        return parse_http(self.admin, "--admin") if self.admin else None

    def _backend_faults(self) -> Iterator[str]:
        if not self.backend:
            if self.backend_key_file or self.backend_vad:
                yield "--backend-key-file and --backend-vad need --backend"
            return
        if self.app != DEFAULT_APP:
            yield "give APP or --backend, not both"
        if not _host_of(self.backend):
            yield f'--backend: give ws://HOST/… or wss://HOST/…, such as "{BACKEND_HINT}"'
        elif "@" in urlsplit(self.backend).netloc:
            yield "--backend: processes show their arguments; use --backend-key-file"
        if self.backend_key_file:
            try:
                key = Path(self.backend_key_file).read_text("ascii").strip()
            except (OSError, ValueError):
                yield f"--backend-key-file: {self.backend_key_file} cannot be read"
                return
            if not key or any(not "!" <= char <= "~" for char in key):
                yield "--backend-key-file: the file must hold one key, in one line"


def fixed_settings(config: Config) -> dict[str, str]:
    """What no reload changes, by name."""
    fixed = [s for s in SETTINGS if not s.reloadable and s.name != "http"]
    http = f"{config.http_host} {config.http_port}"
    return {s.name: str(getattr(config, s.field)) for s in fixed} | {"http": http}


def need_a_start(old: Config, new: Config) -> list[str]:
    """Names of settings that differ and that no reload changes."""
    before, after = fixed_settings(old), fixed_settings(new)
    return [name for name in after if before[name] != after[name]]


def load_keys(path: Path) -> Keys:
    """The API keys of a file. Raises UserError."""
    try:
        return read_keys(str(path))
    except KeyFileError as exc:
        raise UserError(f"--api-key-file: {path} {exc}") from None


def parse_origins(texts: Iterable[str]) -> tuple[str, ...]:
    """Raises UserError."""
    try:
        return tuple(parse_origin(text) for text in texts)
    except ValueError as exc:
        raise UserError(f"--cors-origin: {exc}") from None


def parse_http(text: str, option: str = "--http") -> tuple[str, int]:
    """Host and port of an option. Raises UserError."""
    match = _HTTP.fullmatch(text)
    if match is None or not 1 <= int(match["port"]) <= 65535:
        raise UserError(
            f'{option}: "{text}" is not HOST:PORT, such as {DEFAULT_HTTP} or [::1]:8080'
        )
    return match["v6"] or match["host"], int(match["port"])


def default_transceivers() -> int:
    """One a core."""
    return max(1, min(os.cpu_count() or 1, MAX_TRANSCEIVERS))


def run_base() -> Path:
    """Where the run directories of this user's instances stand."""
    if os.geteuid() == 0:
        return Path("/run/voicerelay")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "voicerelay" if runtime else Path(f"/tmp/voicerelay-{os.geteuid()}")


def default_run_dir(port: int) -> Path:
    """The run directory of the instance on a port."""
    return run_base() / str(port)


def _host_of(url: str) -> str:
    """Host and port of a WebSocket URL; empty when it is none."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("ws", "wss") and parts.hostname and parts.port != 0
    except ValueError:
        return ""
    return parts.netloc.rpartition("@")[2] if usable else ""


__all__ = [
    "DEFAULT_APP",
    "DEFAULT_CAPACITY",
    "DEFAULT_COALESCE_US",
    "DEFAULT_HTTP",
    "DEFAULT_MAX_SESSIONS",
    "DEFAULT_PORT",
    "DEFAULT_RELAYS",
    "DEFAULT_STEERING",
    "MAX_COALESCE_US",
    "STEERING",
    "Config",
    "ConfigError",
    "default_run_dir",
    "default_transceivers",
    "fixed_settings",
    "load_keys",
    "need_a_start",
    "parse_http",
    "parse_origins",
    "run_base",
]
