"""The table of settings: options, variables, keys of voicerelay.toml, bounds and help come from it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voicerelay.relay.pace import DEFAULT_COALESCE_S, MAX_COALESCE_S
from voicerelay.shm.counters import MAX_RELAYS, MAX_TRANSCEIVERS
from voicerelay.shm.logs import FORMATS
from voicerelay.shm.order import DEFAULT_DRAIN_DEADLINE_S, MAX_DEADLINE_S
from voicerelay.shm.region import DEFAULT_CAPACITY, MAX_CAPACITY, MIN_CAPACITY
from voicerelay.transceiver.signalling.keys import MAX_CAP

DEFAULT_APP = "voicerelay.echo:app"
DEFAULT_PORT = 3478
DEFAULT_HTTP = "127.0.0.1:8080"
DEFAULT_RELAYS = 2
STEERING = ("auto", "on", "off")
DEFAULT_STEERING = "auto"
DEFAULT_COALESCE_US = round(DEFAULT_COALESCE_S * 1e6)
MAX_COALESCE_US = round(MAX_COALESCE_S * 1e6)
DEFAULT_MAX_SESSIONS = 200  # a transceiver; about what one core carries
LOG_LEVELS = ("debug", "info", "warning", "error")

NETWORK, CALLERS, PROCESSES = "network", "who may call", "processes"
AGENT, INSTANCE = "what answers", "the instance"


@dataclass(frozen=True)
class Setting:
    """One thing that may be set.

    `kind`: str, int, bool, Path, or tuple for several texts. `unset`: what is meant where there is no
    default; `example` shows a value then. `reloadable`: a reload may change it, else it takes a start.
    """

    name: str  # of the option, and of the key in voicerelay.toml
    group: str
    kind: type
    default: Any
    help: str
    metavar: str = ""
    bounds: tuple[int, int] | None = None
    choices: tuple[str, ...] = ()
    directory: bool = False
    unset: str = ""
    example: Any = None
    reloadable: bool = False

    @property
    def field(self) -> str:
        """Its name in Python."""
        return self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return f"VOICERELAY_{self.field.upper()}"

    @property
    def option(self) -> str:
        """How messages name it; the application is an argument."""
        return "APP" if self.name == "app" else f"--{self.name}"

    def out_of_bounds(self, value: int) -> str:
        """What is wrong with a number; empty when nothing is."""
        low, high = self.bounds or (value, value)
        if low <= value <= high:
            return ""
        return f"{value} is out of range, give {low} to {high}"


SETTINGS = (
    Setting(
        "port",
        NETWORK,
        int,
        DEFAULT_PORT,
        "The one UDP port for all calls.",
        bounds=(1, 65535),
    ),
    Setting(
        "listen",
        NETWORK,
        tuple,
        (),
        "IP address to listen on, may be given again; 0.0.0.0 and :: mean all of the host's.",
        metavar="ADDR",
        unset="the host's primary address",
        example=("192.0.2.10", "2001:db8::10"),
    ),
    Setting(
        "public-ip",
        NETWORK,
        tuple,
        (),
        "Address that clients reach when a NAT stands before --listen; may be given again.",
        metavar="ADDR",
        example=("198.51.100.1",),
    ),
    Setting(
        "http",
        NETWORK,
        str,
        DEFAULT_HTTP,
        "Signalling and demo page. Put TLS in front of it for others than this machine.",
        metavar="HOST:PORT",
    ),
    Setting(
        "api-key-file",
        CALLERS,
        Path,
        None,
        "Who calls must bring a key of this file, one `key` or `name:key` a line, or a token "
        "made of one (`voicerelay token`). Without it --http must be on loopback.",
        example="keys",
        reloadable=True,
    ),
    Setting(
        "open",
        CALLERS,
        bool,
        False,
        "Let anybody call who reaches --http; for a proxy in front that knows its users.",
        reloadable=True,
    ),
    Setting(
        "cors-origin",
        CALLERS,
        tuple,
        (),
        "Web pages that may call from elsewhere, may be given again; * for all.",
        metavar="ORIGIN",
        unset="all with --api-key-file, else those of this machine",
        example=("https://app.example",),
        reloadable=True,
    ),
    Setting(
        "sessions-per-key",
        CALLERS,
        int,
        0,
        "Calls at once that one key and its tokens may have; 0 for no cap.",
        bounds=(0, MAX_CAP),
        reloadable=True,
    ),
    Setting(
        "ice-servers",
        CALLERS,
        Path,
        None,
        "STUN and TURN servers that clients are told of: a JSON file, as RTCConfiguration's "
        "iceServers.",
        example="ice-servers.json",
        reloadable=True,
    ),
    Setting(
        "relays",
        PROCESSES,
        int,
        DEFAULT_RELAYS,
        "Relay processes.",
        bounds=(1, MAX_RELAYS),
    ),
    Setting(
        "transceivers",
        PROCESSES,
        int,
        None,
        "Transceiver processes.",
        bounds=(1, MAX_TRANSCEIVERS),
        unset="one a core",
        example=8,
        reloadable=True,
    ),
    Setting(
        "max-sessions",
        PROCESSES,
        int,
        DEFAULT_MAX_SESSIONS,
        "Calls a transceiver takes at most; more are refused with 503.",
        bounds=(1, MAX_CAPACITY),
        reloadable=True,
    ),
    Setting(
        "drain-deadline",
        PROCESSES,
        int,
        DEFAULT_DRAIN_DEADLINE_S,
        "Seconds that running calls may go on in a transceiver that is drained, by a reload for example.",
        bounds=(0, MAX_DEADLINE_S),
        reloadable=True,
    ),
    Setting(
        "pin",
        PROCESSES,
        bool,
        True,
        "Keep each transceiver on a core of its own.",
        reloadable=True,
    ),
    Setting(
        "capacity",
        PROCESSES,
        int,
        DEFAULT_CAPACITY,
        "Calls the shared tables have room for.",
        bounds=(MIN_CAPACITY, MAX_CAPACITY),
    ),
    Setting(
        "steering",
        PROCESSES,
        str,
        DEFAULT_STEERING,
        "Let the kernel hand packets of established calls to their transceiver (needs CAP_BPF). "
        "auto: where it can, else through the relays; on: refuse to start where it cannot.",
        choices=STEERING,
    ),
    Setting(
        "coalesce-us",
        PROCESSES,
        int,
        DEFAULT_COALESCE_US,
        "Microseconds a busy relay waits for more packets; a lone packet never waits.",
        bounds=(0, MAX_COALESCE_US),
        reloadable=True,
    ),
    Setting(
        "app",
        AGENT,
        str,
        DEFAULT_APP,
        "The agent, module:attribute: a voicerelay.App or an ASGI application.",
        reloadable=True,
    ),
    Setting(
        "backend",
        AGENT,
        str,
        "",
        "Instead of APP: bridge each call to this server of the Realtime WebSocket protocol.",
        metavar="URL",
        example="wss://brain.example/v1/realtime?model=gpt-realtime",
        reloadable=True,
    ),
    Setting(
        "backend-key-file",
        AGENT,
        Path,
        None,
        "Holds the backend's API key; clients never see it.",
        metavar="FILE",
        example="backend-key",
        reloadable=True,
    ),
    Setting(
        "backend-vad",
        AGENT,
        bool,
        False,
        'Detect turns here, for a backend that does not. Needs the extra "vad".',
        reloadable=True,
    ),
    Setting(
        "run-dir",
        INSTANCE,
        Path,
        None,
        "Directory of the instance's sockets.",
        directory=True,
        unset="one for each port and user",
        example="/run/voicerelay/3478",
    ),
    Setting(
        "admin",
        INSTANCE,
        str,
        "",
        "Metrics, health and the operator's page, with nobody asked who they are: keep it on loopback "
        "or a network of operators.",
        metavar="HOST:PORT",
        unset="off",
        example="127.0.0.1:9090",
    ),
    Setting(
        "call-records",
        INSTANCE,
        str,
        "",
        "A line of JSON for each call that has ended, to a file, the journal or (-) standard output.",
        metavar="FILE|journal|-",
        unset="none",
        example="/var/log/voicerelay/calls.jsonl",
        reloadable=True,
    ),
    Setting(
        "log-level",
        INSTANCE,
        str,
        "info",
        "What is not worth more than this is not logged.",
        choices=LOG_LEVELS,
        reloadable=True,
    ),
    Setting(
        "log-format",
        INSTANCE,
        str,
        "auto",
        "auto: text on a terminal, journald's lines to the journal, JSON to all else.",
        choices=FORMATS,
        reloadable=True,
    ),
)
BY_NAME = {setting.name: setting for setting in SETTINGS}
