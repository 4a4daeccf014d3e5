"""What the supervisor tells a transceiver; light to import, so that the supervisor stays small."""

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class TransceiverSettings:
    """What the supervisor gives.

    `candidates`: host and port of each listen address. `pin`: stay on one core. `backend`: URL of a
    Realtime server that takes the place of `app`; its key is in a file, as arguments can be seen.
    """

    run_dir: str
    slot: int
    app: str
    http_host: str
    http_port: int
    candidates: list[tuple[str, int]]
    max_sessions: int
    pin: bool = False
    lifeline: int = -1
    parent: int = 0
    log_level: str = "info"
    backend: str = ""
    backend_key_file: str = ""
    backend_vad: bool = False

    @classmethod
    def from_json(cls, text: str) -> "TransceiverSettings":
        values = json.loads(text)
        values["candidates"] = [(host, port) for host, port in values["candidates"]]
        return cls(**values)
