"""One configuration, built once from the command line and the environment, and passed down."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from voicerelay.cli.errors import UserError
from voicerelay.relay.pace import DEFAULT_COALESCE_S, MAX_COALESCE_S
from voicerelay.shm.counters import MAX_RELAYS, MAX_TRANSCEIVERS
from voicerelay.shm.region import DEFAULT_CAPACITY, MAX_CAPACITY, MIN_CAPACITY
from voicerelay.transceiver.signalling.cors import is_loopback, parse_origin
from voicerelay.transceiver.signalling.iceservers import IceServersError, read_ice_servers
from voicerelay.transceiver.signalling.keyfile import read_keys
from voicerelay.transceiver.signalling.keys import MAX_CAP, KeyFileError, Keys

DEFAULT_APP = "voicerelay.echo:app"
DEFAULT_PORT = 3478
DEFAULT_HTTP = "127.0.0.1:8080"
DEFAULT_RELAYS = 2
STEERING = ("auto", "on", "off")
DEFAULT_STEERING = "auto"
DEFAULT_COALESCE_US = round(DEFAULT_COALESCE_S * 1e6)
MAX_COALESCE_US = round(MAX_COALESCE_S * 1e6)
DEFAULT_MAX_SESSIONS = 200  # a transceiver; about what one core carries
BACKEND_HINT = "wss://api.openai.com/v1/realtime?model=gpt-realtime"
MAX_RUN_DIR_BYTES = 80  # a Unix socket's path has at most 107
_HTTP = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>[^:\[\]]+)):(?P<port>[0-9]{1,5})")


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

    def __post_init__(self) -> None:
        _between("--port", self.port, 1, 65535)
        _between("--relays", self.relays, 1, MAX_RELAYS)
        _between("--transceivers", self.transceivers, 1, MAX_TRANSCEIVERS)
        _between("--max-sessions", self.max_sessions, 1, MAX_CAPACITY)
        _between("--coalesce-us", self.coalesce_us, 0, MAX_COALESCE_US)
        _between("--capacity", self.capacity, MIN_CAPACITY, MAX_CAPACITY)
        _between("--sessions-per-key", self.sessions_per_key, 0, MAX_CAP)
        if len(str(self.run_dir.absolute()).encode()) > MAX_RUN_DIR_BYTES:
            raise UserError(f"--run-dir: the path has more than {MAX_RUN_DIR_BYTES} bytes")
        self._check_backend()
        if self.api_key_file is not None:
            load_keys(self.api_key_file)
        try:
            if self.ice_servers is not None:
                read_ice_servers(str(self.ice_servers))
        except IceServersError as exc:
            raise UserError(f"--ice-servers: {self.ice_servers} {exc}") from None

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

    def _check_backend(self) -> None:
        if not self.backend:
            if self.backend_key_file or self.backend_vad:
                raise UserError("--backend-key-file and --backend-vad need --backend")
            return
        if self.app != DEFAULT_APP:
            raise UserError("give APP or --backend, not both")
        if not _host_of(self.backend):
            raise UserError(
                f'--backend: give ws://HOST/… or wss://HOST/…, such as "{BACKEND_HINT}"'
            )
        if "@" in urlsplit(self.backend).netloc:
            raise UserError("--backend: processes show their arguments; use --backend-key-file")
        if self.backend_key_file:
            try:
                key = Path(self.backend_key_file).read_text("ascii").strip()
            except (OSError, ValueError):
                raise UserError(
                    f"--backend-key-file: {self.backend_key_file} cannot be read"
                ) from None
            if not key or any(not "!" <= char <= "~" for char in key):
                raise UserError("--backend-key-file: the file must hold one key, in one line")


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


def parse_http(text: str) -> tuple[str, int]:
    """Host and port of `--http`. Raises UserError."""
    match = _HTTP.fullmatch(text)
    if match is None or not 1 <= int(match["port"]) <= 65535:
        raise UserError(f'--http: "{text}" is not HOST:PORT, such as {DEFAULT_HTTP} or [::1]:8080')
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


def _between(option: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise UserError(f"{option}: {value} is out of range, give {low} to {high}")


__all__ = [
    "DEFAULT_APP",
    "DEFAULT_CAPACITY",
    "DEFAULT_COALESCE_US",
    "DEFAULT_HTTP",
    "DEFAULT_MAX_SESSIONS",
    "DEFAULT_PORT",
    "DEFAULT_RELAYS",
    "DEFAULT_STEERING",
    "STEERING",
    "Config",
    "default_run_dir",
    "default_transceivers",
    "load_keys",
    "parse_http",
    "parse_origins",
    "run_base",
]
