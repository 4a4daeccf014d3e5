"""All sessions of this transceiver: made, found, swept and ended here."""

import asyncio
import base64
import binascii
import itertools
import logging
import secrets
import struct
import time
from typing import Protocol

from voicerelay.shm.counters import Block, TransceiverCounter
from voicerelay.shm.ufrag import make_ufrag
from voicerelay.transceiver.agent import Agent, Request
from voicerelay.transceiver.directory import CONTROL_GONE, Directory, DirectoryError
from voicerelay.transceiver.figures import Figures
from voicerelay.transceiver.ice import Credentials
from voicerelay.transceiver.mux import Mux
from voicerelay.transceiver.session import LiveSession
from voicerelay.transceiver.signalling.offer import Offer
from voicerelay.transceiver.voice.pacer import Pacer

SWEEP_S = 1.0
CLOSE_ALL_S = 1.0
_ID_HEAD = struct.Struct("!HH")
_ID_RANDOM_BYTES = 16

log = logging.getLogger("voicerelay.session")


class ServerFull(Exception):
    """This transceiver has as many sessions as it may have, or as it can carry."""


class Member(Protocol):
    """What counts as a call here: a session, or a peer connection that the app has made."""

    @property
    def id(self) -> str: ...

    @property
    def number(self) -> int: ...

    @property
    def ended(self) -> asyncio.Event: ...

    @property
    def short_id(self) -> str: ...

    def end(self, reason: str) -> None: ...

    def sweep(self, now: float) -> None: ...

    def path_lost(self, path: bytes) -> None: ...


def session_id(node: int, slot: int) -> str:
    """A fresh public id: node and slot, so that any transceiver finds the owner, and 128 random bits."""
    raw = _ID_HEAD.pack(node, slot) + secrets.token_bytes(_ID_RANDOM_BYTES)
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def slot_of(public_id: str) -> int | None:
    """The slot in a public id; None for what is not one."""
    try:
        raw = base64.b64decode(public_id + "=" * (-len(public_id) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(raw) != _ID_HEAD.size + _ID_RANDOM_BYTES:
        return None
    slot: int = _ID_HEAD.unpack_from(raw)[1]
    return slot


class Registry:
    """Sessions by public id and by number."""

    def __init__(
        self,
        slot: int,
        agent: Agent,
        mux: Mux,
        directory: Directory,
        block: Block,
        candidates: list[tuple[str, int]],
        max_sessions: int,
        pacer: Pacer,
    ) -> None:
        self.node = 0
        self.slot = slot
        self.cluster_key = b""
        self.candidates = candidates
        self.draining = False
        self._agent = agent
        self._mux = mux
        self._directory = directory
        self._block = block
        self._max_sessions = max_sessions
        self._pacer = pacer
        self.shortage = ""  # what the host gives too little of; see headroom
        self.figures = Figures()
        self._by_id: dict[str, Member] = {}
        self._by_number: dict[int, Member] = {}
        self._numbers = itertools.cycle(range(1, 1 << 32))
        self._watchers: set[asyncio.Task[None]] = set()
        block.set(TransceiverCounter.MAX_SESSIONS, max_sessions)

    @property
    def full(self) -> bool:
        """Whether a new call would be one too many, by their number, by what they suffer, or in a drain."""
        return self.draining or len(self._by_id) >= self._max_sessions or self.overloaded

    @property
    def overloaded(self) -> bool:
        """Whether the calls there are have all that there is."""
        return self._pacer.overloaded or bool(self.shortage)

    @property
    def sessions(self) -> int:
        """How many there are now."""
        return len(self._by_id)

    @property
    def available(self) -> bool:
        """Whether control is there, without which no session can begin."""
        return self._directory.available

    def get(self, public_id: str) -> LiveSession | None:
        found = self._by_id.get(public_id)
        return found if isinstance(found, LiveSession) else None

    def live(self) -> list[LiveSession]:
        """All sessions of our own that have not left; not the peer connections of an app."""
        return [found for found in self._by_id.values() if isinstance(found, LiveSession)]

    def identity(self) -> tuple[str, int]:
        """A fresh public id and number for a member to be."""
        number = next(n for n in self._numbers if n not in self._by_number)
        return session_id(self.node, self.slot), number

    def join(self, member: Member) -> None:
        """Count a call from now on. Raises ServerFull or DirectoryError."""
        if self.full:
            raise ServerFull
        if not self.available:
            raise DirectoryError(CONTROL_GONE)
        self._by_id[member.id] = self._by_number[member.number] = member
        self._count()

    def leave(self, member: Member) -> None:
        """No longer count it."""
        self._by_id.pop(member.id, None)
        self._by_number.pop(member.number, None)
        self._count()

    def new_ufrag(self) -> bytes:
        return make_ufrag(self.cluster_key, self.node, self.slot)

    async def create(self, offer: Offer, request: Request) -> tuple[LiveSession, str]:
        """A new session and its answer. Raises ServerFull, DirectoryError or NotAcceptable."""
        session = LiveSession(
            *self.identity(),
            self._agent,
            self._mux,
            self._directory,
            self.candidates,
            self._pacer,
            request,
        )
        self.join(session)
        try:
            answer = await session.open(offer, self.new_ufrag())
        except BaseException:
            self.leave(session)
            raise
        self.started()
        watcher = asyncio.get_running_loop().create_task(self._remove_when_ended(session))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        return session, answer

    def started(self) -> None:
        """A call that has joined has been answered."""
        self._block.add(TransceiverCounter.SESSIONS_STARTED)

    async def restart(self, session: LiveSession, remote_ufrag: str) -> Credentials:
        """ICE restart with a fresh ufrag. Raises DirectoryError."""
        return await session.restart_ice(self.new_ufrag(), remote_ufrag)

    async def reoffer(self, session: LiveSession, offer: Offer, fresh: bool) -> str:
        """The answer to another offer for a session. Raises DirectoryError or NotAcceptable."""
        return await session.reoffer(offer, self.new_ufrag(), fresh)

    def flow_lost(self, path: bytes, number: int) -> None:
        """Control says that a path now belongs to a session elsewhere."""
        session = self._by_number.get(number)
        if session is not None:
            session.path_lost(path)

    def start(self) -> None:
        """Begin to sweep."""
        asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def end_all(self, reason: str) -> list[Member]:
        """End every session; the goodbyes follow in the background."""
        sessions = list(self._by_id.values())
        for session in sessions:
            session.end(reason)
        return sessions

    async def close_all(self, reason: str) -> None:
        """End every session and wait a moment for the goodbyes."""
        sessions = self.end_all(reason)
        if sessions:
            await asyncio.wait(
                [asyncio.ensure_future(session.ended.wait()) for session in sessions],
                timeout=CLOSE_ALL_S,
            )

    def _sweep(self) -> None:
        now = time.monotonic()
        for session in list(self._by_id.values()):
            try:
                session.sweep(now)
                if isinstance(session, LiveSession):
                    self.figures.look(session)
            except Exception:
                log.exception("session %s: sweep", session.short_id)
                session.end("internal error")
        asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    async def _remove_when_ended(self, session: LiveSession) -> None:
        await session.ended.wait()
        self.leave(session)
        self.figures.left(session)

    def _count(self) -> None:
        self._block.set(TransceiverCounter.SESSIONS, len(self._by_id))
