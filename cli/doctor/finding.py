"""One finding: what was looked at, what was seen, how bad that is, and what mends it."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """ok: as it should be. warn: calls work, with a limit to know of. fail: calls will not work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """`mend`: a command to type where there is one, else what to do; empty when nothing is to do."""

    name: str
    state: State
    seen: str
    mend: str = ""


def ok(name: str, seen: str, mend: str = "") -> Finding:
    return Finding(name, State.OK, seen, mend)


def warn(name: str, seen: str, mend: str) -> Finding:
    return Finding(name, State.WARN, seen, mend)


def fail(name: str, seen: str, mend: str) -> Finding:
    return Finding(name, State.FAIL, seen, mend)


def count(findings: Iterable[Finding]) -> dict[str, int]:
    """How many of each state."""
    counts = {state.value: 0 for state in State}
    for finding in findings:
        counts[finding.state] += 1
    return counts
