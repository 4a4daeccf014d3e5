"""What the supervisor tells the admin process; light to import, so that the supervisor stays small."""

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class AdminSettings:
    """`host` and `port`: of its HTTP."""

    run_dir: str
    host: str
    port: int
    lifeline: int = -1
    parent: int = 0
    log_level: str = "info"
    log_format: str = "auto"

    @classmethod
    def from_json(cls, text: str) -> "AdminSettings":
        return cls(**json.loads(text))
