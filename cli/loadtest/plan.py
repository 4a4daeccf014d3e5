"""What a load test is to do: one record, bounded, for the command and its worker processes."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from voicerelay.cli.errors import UserError
from voicerelay.cli.loadtest.contracts import PATHS
from voicerelay.cli.loadtest.impairment import MAX_JITTER_S, MAX_LOSS, MIN_REBIND_S, Impairment
from voicerelay.cli.loadtest.scenario import MAX_CALLS_IN_ALL, SCENARIOS, plan_calls

MAX_CALLS = 10_000  # at once
MAX_DURATION_S = 24 * 3600.0
MAX_RATE = 1000.0  # beginnings a second
MAX_WORKERS = 64
MAX_SOURCES = 200  # addresses 127.0.0.2 and on
MAX_MARKED_CALLS = 50
CALLS_A_WORKER = 250  # above, one process more, as far as there are cores


@dataclass(frozen=True)
class Plan:
    """url: with the contract's path. marked: calls whose mouth-to-ear delay is measured."""

    url: str
    contract: str
    calls: int
    duration_s: float
    scenario: str
    rate: float
    talk: float
    seed: int
    workers: int
    sources: int
    marked: int
    allow_remote: bool = False
    impairment: Impairment = field(default_factory=Impairment)

    def __post_init__(self) -> None:
        _between("--calls", self.calls, 1, MAX_CALLS)
        _between("--duration", self.duration_s, 1, MAX_DURATION_S)
        _between("--rate", self.rate, 0.1, MAX_RATE)
        _between("--talk", self.talk, 0, 1)
        _between("--workers", self.workers, 1, MAX_WORKERS)
        _between("--sources", self.sources, 1, MAX_SOURCES)
        _between("--marked", self.marked, 0, MAX_MARKED_CALLS)
        how = self.impairment
        _between("--loss", how.loss, 0, MAX_LOSS)
        _between("--jitter-ms", 1000 * how.jitter_s, 0, 1000 * MAX_JITTER_S)
        if how.rebind_s:
            _between("--rebind-every", how.rebind_s, MIN_REBIND_S, MAX_DURATION_S)
        if self.contract not in PATHS or self.scenario not in SCENARIOS:
            raise UserError("--contract or --scenario: there is no such one")
        planned = self.planned()
        if self.scenario != "churn" and len(planned) < self.calls:
            raise UserError(
                f"--duration: {self.calls} calls at --rate {self.rate:g} take "
                f"{self.calls / self.rate:.0f} s to begin; give more of either"
            )
        if len(planned) >= MAX_CALLS_IN_ALL:
            raise UserError(f"a test has less than {MAX_CALLS_IN_ALL} calls in all; churn less")

    def planned(self) -> list[Any]:
        """All calls; every worker knows which of them are its own."""
        return plan_calls(self.scenario, self.calls, self.duration_s, self.rate, self.seed)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        told = json.loads(text)
        return cls(**told | {"impairment": Impairment(**told["impairment"])})


def _between(option: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # a NaN is not either
        raise UserError(f"{option}: {value:g} is out of range, give {low:g} to {high:g}")
