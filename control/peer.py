"""The words of control's decisions: the peers it knows, and what it may do to them."""

from dataclasses import dataclass, field

from voicerelay.shm.protocol import Message


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message; `sockets_of`: with the public sockets of that (role, index)."""

    peer: int
    message: Message
    sockets_of: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Close:
    """Close a connection after what was sent."""

    peer: int
    reason: str


@dataclass(frozen=True, slots=True)
class Kill:
    """End a hung process."""

    peer: int
    reason: str


Action = Send | Close | Kill


@dataclass(slots=True)
class Peer:
    """A connected relay or transceiver. `still_s`: how long its heartbeat has not moved."""

    role: str
    index: int
    generation: int
    holding: set[int] = field(default_factory=set)  # relay sockets that it reads
    heartbeat_ns: int = 0
    still_s: float = 0.0
    ticks: int | None = (
        None  # of CPU, when its heart was found to stand still; None: it did not want to run
    )
    killed: bool = False
    replaying: bool = False  # since a reconnect, until ReplayDone

    @property
    def owner(self) -> tuple[int, int]:
        """How its records name it."""
        return self.index, self.generation
