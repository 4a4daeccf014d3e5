"""What the supervisor tells a transceiver; light to import, so that the supervisor stays small."""

import json
from dataclasses import dataclass, field

from voicerelay.shm.order import DEFAULT_DRAIN_DEADLINE_S


@dataclass(frozen=True)
class AccessSettings:
    """Who may call. api_key_file: empty for none. open: may be without, even off loopback.

    sessions_per_key: at once on this host, 0 for no cap.
    """

    api_key_file: str = ""
    cors_origins: list[str] = field(default_factory=list)
    open: bool = False
    sessions_per_key: int = 0


@dataclass(frozen=True)
class TransceiverSettings:
    """What the supervisor gives.

    `candidates`: host and port of each listen address. `pin`: stay on one core. `backend`: URL of a
    Realtime server that takes the place of `app`; its key is in a file, as arguments can be seen.
    `call_records`: a path, "journal", "-" for standard output, empty for none.
    `compiled`: use voice in C where it was built. `held`: take no calls before the supervisor says so.
    `drain_deadline_s`: of a drain by SIGQUIT.
    """

    run_dir: str
    slot: int
    app: str
    http_host: str
    http_port: int
    candidates: list[tuple[str, int]]
    max_sessions: int
    ice_servers_file: str = ""
    access: AccessSettings = field(default_factory=AccessSettings)
    pin: bool = False
    lifeline: int = -1
    parent: int = 0
    log_level: str = "info"
    log_format: str = "auto"
    backend: str = ""
    backend_key_file: str = ""
    backend_vad: bool = False
    call_records: str = ""
    compiled: bool = True
    held: bool = False
    drain_deadline_s: int = DEFAULT_DRAIN_DEADLINE_S

    @classmethod
    def from_json(cls, text: str) -> "TransceiverSettings":
        values = json.loads(text)
        values["candidates"] = [(host, port) for host, port in values["candidates"]]
        values["access"] = AccessSettings(**values["access"])
        return cls(**values)
