"""One look at a whole instance: shared counters, and what the transceivers tell of their calls."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from voicerelay.cli.admin.ready import control_up, objections
from voicerelay.cli.figures import TransceiverFigures
from voicerelay.cli.status import StatusReader

FRESH_S = 0.5  # however many look, transceivers are not asked more often

# What the page shows of a call: nothing that would let a reader end it.
CALL_FIELDS = (
    *("short_id", "slot", "relay", "state", "age_s", "contract", "client", "codec", "key"),
    *("rtt_ms", "jitter_ms", "packets_in", "packets_out", "lost_in", "lost_out"),
    *("fraction_lost_out", "concealed_ms", "setup_ms"),
)


@dataclass(frozen=True)
class Snapshot:
    """`at`: when, in seconds of a clock that goes on. `status` as `voicerelay status --json`.

    `figures` by slot; `calls` only where asked for.
    """

    at: float
    status: dict[str, Any]
    figures: dict[int, dict[str, Any]]
    calls: list[dict[str, Any]] = field(default_factory=list)

    def for_page(self) -> dict[str, Any]:
        """What the operator's page draws."""
        status = self.status
        relays = [_without(relay, "dropped") | _drops(relay) for relay in status["relays"]]
        transceivers = [
            _without(one, "dropped") | _drops(one) | self._load(one["slot"])
            for one in status["transceivers"]
        ]
        described = ("version", "app", "port", "listen", "http", "plane", "sockets", "capacity")
        return {name: status.get(name) for name in described} | {
            "at": round(self.at, 3),
            "control_up": control_up(status),
            "not_ready": objections(status),
            "routes": status["routes"],
            "flows": status["flows"],
            "relays": relays,
            "transceivers": transceivers,
            "dropped": {reason: n for reason, n in status["dropped"].items() if n},
            "calls": [{name: call.get(name) for name in CALL_FIELDS} for call in self.calls],
        }

    def _load(self, slot: int) -> dict[str, Any]:
        told = self.figures.get(slot)
        if told is None:
            return {"answers": False}
        return {
            "answers": True,
            "load_level": told["load_level"],
            "agent": told["agent"],
            "rtp": told["rtp"],
        }


class Looker:
    """Looks at an instance, at most every FRESH_S."""

    def __init__(
        self, run_dir: Path, reader: StatusReader, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._reader = reader
        self._clock = clock
        self._transceivers = TransceiverFigures(run_dir)
        self._looking = asyncio.Lock()
        self._last: Snapshot | None = None
        self._with_calls = False

    def status(self) -> dict[str, Any]:
        """Asks nobody. Raises NotRunning."""
        return self._reader.read()

    async def look(self, calls: bool) -> Snapshot:
        """`calls`: with each call's figures. Raises NotRunning."""
        async with self._looking:
            last, now = self._last, self._clock()
            if last is not None and now - last.at < FRESH_S and (self._with_calls or not calls):
                return last
            figures, sessions = await asyncio.gather(
                self._transceivers.figures(),
                self._transceivers.sessions() if calls else _nothing(),
            )
            self._last = last = Snapshot(self._clock(), self.status(), figures, sessions)
            self._with_calls = calls
            return last


async def _nothing() -> list[dict[str, Any]]:
    return []


def _without(process: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in process.items() if key != name}


def _drops(process: dict[str, Any]) -> dict[str, int]:
    return {"dropped": sum(process["dropped"].values()) + process["socket_overflows"]}
