"""Our ICE-lite agent (RFC 8445 §2.5), without I/O: answers authenticated checks, never sends one.

States of a path:  unknown --authenticated check, committed--> valid --selected--> carries the call
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from voicerelay.shm import stun
from voicerelay.shm.counters import TransceiverCounter
from voicerelay.shm.path import path_address

CONSENT_EXPIRY_S = 30.0  # RFC 7675 §5.1
RESTART_OVERLAP_S = 5.0  # how long the credentials before an ICE restart stay good
MAX_VALID_PATHS = 16  # a session; the oldest that is not selected gives way
MAX_TRANSACTIONS = 1024  # remembered (about 40 minutes), so that a replayed check moves nothing
RETRANSMISSION_S = 40.0  # the longest a client repeats one request, RFC 8489 §6.2.1
SILENCE_S = 0.2  # a selected path is silent after so long without media (ten lost frames)
NO_MEDIA_SILENCE_S = 0.5  # and, for a client that sends no media, without checks and media


class IceState(Enum):
    """States of a lite agent that is always controlled."""

    NEW = "new"
    CONNECTED = "connected"  # a path is valid
    COMPLETED = "completed"  # the client has nominated one
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Local ufrag and password, and the ufrag the client signs with."""

    ufrag: bytes
    password: bytes
    remote_ufrag: bytes


@dataclass(slots=True)
class ValidPath:
    """A client address that passed an authenticated check; times are monotonic seconds."""

    checked_at: float
    media_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Check:
    """An authenticated Binding request. `reply` must not leave before `IceAgent.accept`.

    `round`: 0 for the first credentials, one more with each ICE restart.
    """

    path: bytes
    reply: bytes
    nominate: bool
    known_path: bool
    round: int = 0


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An authenticated request that is answered with an error (420, 487) and changes nothing."""

    reply: bytes


def never() -> float:
    """When media came that nobody takes off our hands."""
    return 0.0


@dataclass(slots=True)
class IceAgent:
    """One component, bundled. `selected` is the path that carries the call.

    `media_heard`: when media from it last came that `media` is not told of.
    """

    credentials: Credentials
    state: IceState = IceState.NEW
    selected: bytes | None = None
    consent_at: float = 0.0
    valid: OrderedDict[bytes, ValidPath] = field(default_factory=OrderedDict)
    media_heard: Callable[[], float] = field(default=never, repr=False)
    _round: int = 0
    _selected_round: int = 0
    _previous: Credentials | None = None
    _previous_until: float = 0.0
    _transactions: OrderedDict[bytes, tuple[bytes, float]] = field(default_factory=OrderedDict)

    def receive(
        self, data: bytes, path: bytes, now: float
    ) -> Check | ErrorReply | TransceiverCounter:
        """Judge one STUN datagram. Changes nothing but the memory of transactions.

        Anything not authenticated is a drop: no reply (law 4; `docs/rfc.md` on RFC 8489 §9.1.3).
        """
        try:
            message = stun.parse(data)
        except stun.StunError:
            return TransceiverCounter.DROPPED_MALFORMED_STUN
        if message.kind != stun.BINDING_REQUEST:
            # Indications keep a NAT open; responses answer checks we never send.
            return TransceiverCounter.DROPPED_NOT_REQUEST
        if self.state is IceState.CLOSED:
            return TransceiverCounter.DROPPED_UNKNOWN_UFRAG
        credentials = self._match(message.username, now)
        if credentials is None or not stun.integrity_holds(data, message, credentials.password):
            return TransceiverCounter.DROPPED_BAD_INTEGRITY
        return self._authenticated(message, path, credentials, now)

    def accept(self, check: Check, now: float) -> bytes | None:
        """Let an authenticated check take effect, its flow being committed.

        Returns the path that had to give way when there were too many, else None.
        """
        self.consent_at = now
        entry = self.valid.get(check.path)
        forgotten = None
        if entry is None:
            entry = self.valid[check.path] = ValidPath(now)
            forgotten = self._forget_oldest(check.path)
        entry.checked_at = now
        if self.selected is None:
            # Lets DTLS begin before nomination (RFC 8445 §12.2).
            self.selected, self._selected_round = check.path, check.round
        elif check.nominate and check.round > self._selected_round:
            # The client leaves the old round with this nomination (RFC 8445 §9).
            self.selected, self._selected_round = check.path, check.round
        elif check.nominate and check.path != self.selected and self._may_leave_selected(now):
            self.selected = check.path
        if check.nominate:
            self.state = IceState.COMPLETED
        elif self.state is IceState.NEW:
            self.state = IceState.CONNECTED
        return forgotten

    def media(self, path: bytes, now: float) -> bool:
        """Authentic media (SRTP verified) came from `path`; True when the call moves there.

        A NAT gave the client a new address, or it left a network: clients that nominate once
        never repeat USE-CANDIDATE, so the call follows the media once the old path is silent.
        """
        entry = self.valid.get(path)
        if entry is None:
            return False
        entry.media_at = now
        if path == self.selected:
            return False
        current = self.valid.get(self.selected) if self.selected else None
        if current is not None and now - self._media_at(current) <= SILENCE_S:
            return False
        self.selected = path
        return True

    def restart(self, credentials: Credentials, now: float) -> None:
        """New credentials (RFC 8445 §9); the call stays on its path until a new check moves it."""
        self._previous, self._previous_until = self.credentials, now + RESTART_OVERLAP_S
        self.credentials = credentials
        self._round += 1

    def overlapping(self, now: float) -> bool:
        """Whether the credentials before the last restart are still good."""
        return now < self._previous_until

    def expired(self, now: float) -> bool:
        """Whether consent is gone: no authenticated check for CONSENT_EXPIRY_S (RFC 7675)."""
        return now - self.consent_at > CONSENT_EXPIRY_S

    def lose(self, path: bytes) -> None:
        """Another session proved that this path is its own."""
        self.valid.pop(path, None)
        if self.selected == path:
            self.selected = None

    def close(self) -> None:
        self.state = IceState.CLOSED
        self.valid.clear()
        self.selected = None

    def _match(self, username: bytes | None, now: float) -> Credentials | None:
        """The credentials that a USERNAME "ours:theirs" names (RFC 8445 §7.2.2).

        A check may come before we are told theirs; ours and the password decide (§7.3).
        """
        candidates = [self.credentials]
        if self._previous is not None and now < self._previous_until:
            candidates.append(self._previous)
        for credentials in candidates:
            known = credentials.ufrag + b":" + credentials.remote_ufrag
            unmet = credentials.ufrag and not credentials.remote_ufrag
            early = unmet and username is not None and username.startswith(known)
            if username == known or early:
                return credentials
        return None

    def _authenticated(
        self, message: stun.Message, path: bytes, credentials: Credentials, now: float
    ) -> Check | ErrorReply | TransceiverCounter:
        transaction = message.transaction
        known_path, since = self._transactions.setdefault(transaction, (path, now))
        if known_path != path or now - since > RETRANSMISSION_S:
            # MESSAGE-INTEGRITY covers neither the source address nor the time: the same check
            # from elsewhere, or much later, is a replay and must neither move nor keep a call.
            return TransceiverCounter.DROPPED_REPLAYED_CHECK
        if len(self._transactions) > MAX_TRANSACTIONS:
            self._transactions.popitem(last=False)
        if message.unknown:
            unknown = b"".join(kind.to_bytes(2, "big") for kind in message.unknown)
            return ErrorReply(_error(transaction, 420, unknown, credentials))
        if message.controlled:
            # RFC 8445 §7.3.1.1: a lite agent is always controlled, so the client must switch.
            return ErrorReply(_error(transaction, 487, b"", credentials))
        port, address = path_address(path)
        mapped = stun.xor_address(port, address, transaction)
        reply = stun.build(
            stun.BINDING_SUCCESS,
            transaction,
            [(stun.XOR_MAPPED_ADDRESS, mapped)],
            credentials.password,
        )
        of_round = self._round if credentials is self.credentials else self._round - 1
        return Check(path, reply, message.use_candidate, path in self.valid, of_round)

    def _may_leave_selected(self, now: float) -> bool:
        """A nomination moves the call at once before media flows, later only off a silent path."""
        current = self.valid.get(self.selected) if self.selected else None
        media_at = self._media_at(current) if current is not None else 0.0
        if current is None or not media_at:
            return True
        return now - max(media_at, current.checked_at) > NO_MEDIA_SILENCE_S

    def _media_at(self, current: ValidPath) -> float:
        """When media last came by the selected path."""
        return max(current.media_at, self.media_heard())

    def _forget_oldest(self, newest: bytes) -> bytes | None:
        if len(self.valid) <= MAX_VALID_PATHS:
            return None
        oldest = min(
            (path for path in self.valid if path not in (self.selected, newest)),
            key=lambda path: self.valid[path].checked_at,
        )
        del self.valid[oldest]
        return oldest


def _error(transaction: bytes, code: int, unknown: bytes, credentials: Credentials) -> bytes:
    """Without a reason phrase, so that no answer is longer than its request."""
    value = bytes((0, 0, code // 100, code % 100))
    attributes = [(stun.ERROR_CODE, value)]
    if unknown:
        attributes.append((stun.UNKNOWN_ATTRIBUTES, unknown))
    return stun.build(stun.BINDING_ERROR, transaction, attributes, credentials.password)
