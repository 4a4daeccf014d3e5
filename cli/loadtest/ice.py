"""The caller's ICE agent (RFC 8445): full, controlling, one component; sans-IO.

CHECKING --a check succeeds, it nominates--> NOMINATING --that succeeds--> COMPLETED --no consent--> EXPIRED
"""

import ipaddress
import random
from collections import OrderedDict
from enum import Enum
from typing import NamedTuple

from voicerelay.cli.loadtest.sdp import Address, Answer
from voicerelay.shm import stun

PACE_S = 0.05  # between first checks of candidates, RFC 8445 §14.2
FIRST_RTO_S = 0.25
LAST_RTO_S = 2.0
CONSENT_S = 2.5  # as browsers check a pair in use, each 0.8 to 1.2 times that (RFC 7675 §5.1: 5 s)
CONSENT_EXPIRY_S = 30.0
MAX_TRANSACTIONS = 32  # whose answers are awaited
_HOST_PRIORITY = (2113937151).to_bytes(4, "big")


class IceState(Enum):
    CHECKING = "checking"
    NOMINATING = "nominating"
    COMPLETED = "completed"
    EXPIRED = "expired"


class Sent(NamedTuple):
    """A check under way."""

    to: Address
    at: float
    nominates: bool


class IceClient:
    """Sends what `due` gives, takes in what `receive` gets; times are monotonic seconds."""

    def __init__(
        self, ufrag: str, password: str, answer: Answer, now: float, chance: random.Random
    ) -> None:
        self.state = IceState.CHECKING
        self.selected: Address | None = None
        self.consent_at = now
        self.unanswered_since: float | None = None  # the first check after the last answer
        self.round_trip_s: float | None = None
        self._password = password.encode()
        self._remote_password = answer.password.encode()
        self._asks = f"{answer.ufrag}:{ufrag}".encode()
        self._is_asked = f"{ufrag}:{answer.ufrag}".encode()
        self._chance = chance
        self._tie_breaker = chance.randbytes(8)
        self._sent: OrderedDict[bytes, Sent] = OrderedDict()
        # When each candidate is checked next, and how long it then may take.
        self._turns = {c: (now + i * PACE_S, FIRST_RTO_S) for i, c in enumerate(answer.candidates)}
        self._next_consent = 0.0

    @property
    def deadline(self) -> float:
        """When `due` has something again."""
        if self.state in (IceState.CHECKING, IceState.NOMINATING):
            return min(at for at, _ in self._turns.values())
        return self._next_consent

    def due(self, now: float) -> list[tuple[bytes, Address]]:
        """The checks to send now."""
        if self.state is IceState.COMPLETED:
            return self._consent(now)
        if self.state is IceState.EXPIRED:
            return []
        checks = []
        for candidate, (at, rto_s) in self._turns.items():
            if at <= now:
                checks.append((self._check(candidate, now, self.selected is not None), candidate))
                self._turns[candidate] = now + rto_s, min(2 * rto_s, LAST_RTO_S)
        return checks

    def receive(self, data: bytes, source: Address, now: float) -> bytes | None:
        """One STUN datagram; gives the reply to send back. What is not authentic changes nothing."""
        try:
            message = stun.parse(data)
        except stun.StunError:
            return None
        if message.kind == stun.BINDING_REQUEST:
            return self._answer(data, message, source)
        known = message.kind == stun.BINDING_SUCCESS and message.transaction in self._sent
        if known and stun.integrity_holds(data, message, self._remote_password):
            self._succeeded(self._sent.pop(message.transaction), now)
        return None

    def _succeeded(self, check: Sent, now: float) -> None:
        self.consent_at = now
        self.unanswered_since = None
        self.round_trip_s = now - check.at
        if self.state is IceState.CHECKING:
            self.selected, self.state = check.to, IceState.NOMINATING
            self._turns = {check.to: (now, FIRST_RTO_S)}
        elif self.state is IceState.NOMINATING and check.nominates:
            self.state = IceState.COMPLETED
            self._arm_consent(now)

    def _consent(self, now: float) -> list[tuple[bytes, Address]]:
        assert self.selected is not None
        if now - self.consent_at > CONSENT_EXPIRY_S:
            self.state = IceState.EXPIRED
            return []
        if now < self._next_consent:
            return []
        self._arm_consent(now)
        return [(self._check(self.selected, now, False), self.selected)]

    def _arm_consent(self, now: float) -> None:
        self._next_consent = now + CONSENT_S * self._chance.uniform(0.8, 1.2)

    def _check(self, to: Address, now: float, nominates: bool) -> bytes:
        transaction = self._chance.randbytes(12)
        self._sent[transaction] = Sent(to, now, nominates)
        if self.unanswered_since is None:
            self.unanswered_since = now
        if len(self._sent) > MAX_TRANSACTIONS:
            self._sent.popitem(last=False)
        attributes = [
            (stun.USERNAME, self._asks),
            (stun.PRIORITY, _HOST_PRIORITY),
            (stun.ICE_CONTROLLING, self._tie_breaker),
        ]
        if nominates:
            attributes.append((stun.USE_CANDIDATE, b""))
        return stun.build(stun.BINDING_REQUEST, transaction, attributes, self._remote_password)

    def _answer(self, data: bytes, message: stun.Message, source: Address) -> bytes | None:
        """A full agent checks too, and wants consent (RFC 8445 §7.3)."""
        if message.username != self._is_asked:
            return None
        if not stun.integrity_holds(data, message, self._password):
            return None
        packed = ipaddress.ip_address(source.host).packed
        mapped = stun.xor_address(source.port, packed, message.transaction)
        return stun.build(
            stun.BINDING_SUCCESS,
            message.transaction,
            [(stun.XOR_MAPPED_ADDRESS, mapped)],
            self._password,
        )
