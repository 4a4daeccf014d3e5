"""What the supervisor may tell a transceiver over its lifeline: take calls, take no more, end with the last."""

from dataclasses import dataclass

OPEN, DRAIN, RETIRE = "open", "drain", "retire"
DEFAULT_DRAIN_DEADLINE_S = 3600
MAX_DEADLINE_S = 7 * 24 * 3600
MAX_ORDER_BYTES = 64


@dataclass(frozen=True, slots=True)
class Order:
    """`drain`: no new calls, the running ones end after `deadline_s` at the latest; `retire`: then end too."""

    what: str
    deadline_s: int = 0

    def encode(self) -> bytes:
        return f"{self.what} {self.deadline_s}".encode()


def parse_order(data: bytes) -> Order | None:
    """An order as `encode` makes it; None for anything else."""
    if len(data) > MAX_ORDER_BYTES:
        return None
    what, _, deadline = data.partition(b" ")
    if what not in (b"open", b"drain", b"retire") or not deadline.isdigit():
        return None
    seconds = int(deadline)
    return Order(what.decode(), seconds) if seconds <= MAX_DEADLINE_S else None
