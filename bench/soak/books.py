"""Where every packet went: the counters of each process's life, also of those that were killed. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Key(NamedTuple):
    """One life of a process; a successor has another pid, and begins its counters anew."""

    role: str
    number: int  # of the relay, or the transceiver's slot
    pid: int


@dataclass
class Life:
    """What was seen last of it."""

    key: Key
    first_s: float
    last_s: float
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def unaccounted(self) -> int:
        """A relay's packets that were received, and neither forwarded nor dropped for a reason."""
        told = self.figures
        return int(
            told["packets_received"] - told["packets_forwarded"] - sum(told["dropped"].values())
        )


class Books:
    """All lives of a run."""

    def __init__(self) -> None:
        self.lives: dict[Key, Life] = {}

    def note(self, at_s: float, key: Key, figures: Mapping[str, Any]) -> None:
        life = self.lives.setdefault(key, Life(key, at_s, at_s))
        life.last_s, life.figures = at_s, figures

    def take(self, at_s: float, status: Mapping[str, Any]) -> None:
        """All processes of `read_status`."""
        for role, index, process in processes(status):
            self.note(at_s, Key(role, index, process["pid"]), process)

    def of(self, role: str) -> list[Life]:
        return [life for life in self.lives.values() if life.key.role == role]

    def total(self, role: str, counter: str) -> int:
        return sum(int(life.figures[counter]) for life in self.of(role))


def processes(status: Mapping[str, Any]) -> list[tuple[str, int, Mapping[str, Any]]]:
    """(role, number, figures) of those that have a block of counters."""
    found = [("relay", one["index"], one) for one in status["relays"]]
    found += [("transceiver", one["slot"], one) for one in status["transceivers"]]
    return found + ([("control", 0, status["control"])] if status["control"] else [])


@dataclass(frozen=True)
class Balance:
    """From the callers' sockets to the transceivers; all in datagrams."""

    sent: int
    relayed: int  # received by relays
    steered: int  # straight to transceivers, by the kernel
    overflowed: int  # lost by the kernel: a receive buffer was full
    forwarded: int
    delivered: int  # received by transceivers, of either way

    @property
    def missing(self) -> int:
        """Sent, and seen by nobody."""
        return self.sent - self.relayed - self.steered - self.overflowed

    @property
    def missing_inside(self) -> int:
        """Forwarded or steered, and not received by a transceiver."""
        return self.forwarded + self.steered - self.delivered

    def share(self, count: int) -> float:
        """Of all that was sent, in percent."""
        return 100 * abs(count) / self.sent if self.sent else 0.0


def balance(sent: int, books: Books, last: Mapping[str, Any]) -> Balance:
    """last: `read_status` after the last call has ended."""
    control = last["control"] or {}
    # Counted by the socket, which outlives relays: so of those that read it now. A transceiver's
    # socket ends with it.
    overflowed = sum(relay["socket_overflows"] for relay in last["relays"])
    return Balance(
        sent,
        books.total("relay", "packets_received"),
        control.get("steered_by_flow", 0) + control.get("steered_by_ufrag", 0),
        overflowed + books.total("transceiver", "socket_overflows"),
        books.total("relay", "packets_forwarded"),
        books.total("transceiver", "packets_received"),
    )


def outside(series: Sequence[tuple[float, int]], faults: Sequence[float], after_s: float) -> int:
    """By how much a count rose while no fault was near. series: (seconds, count since the round began)."""
    risen, before_s, before = 0, 0.0, 0
    for at_s, count in series:
        if count < before:  # another round
            before = 0
        if not any(before_s - after_s <= fault <= at_s for fault in faults):
            risen += count - before
        before_s, before = at_s, count
    return risen
