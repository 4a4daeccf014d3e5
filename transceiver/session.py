"""One call: binds ICE, the peer connection, the voice path and the agent together."""

import asyncio
import contextlib
import logging
import secrets
import time
from dataclasses import asdict
from enum import Enum
from typing import Any

from voicerelay.shm.counters import TransceiverCounter
from voicerelay.transceiver import guard
from voicerelay.transceiver.agent import Agent, Request, SessionClosed
from voicerelay.transceiver.channels import DataChannel
from voicerelay.transceiver.conversation import Conversation
from voicerelay.transceiver.directory import Directory
from voicerelay.transceiver.ice import Credentials
from voicerelay.transceiver.media import Media
from voicerelay.transceiver.milestones import Milestone, Milestones
from voicerelay.transceiver.mux import Mux
from voicerelay.transceiver.negotiate import NotAcceptable
from voicerelay.transceiver.reach import Reach
from voicerelay.transceiver.seam import Peer, answer
from voicerelay.transceiver.signalling.offer import Offer
from voicerelay.transceiver.voice.pacer import Pacer
from voicerelay.transceiver.voice.rtp import FIRST_RTP_BYTE

SETUP_TIMEOUT_S = 30.0  # from the answer to media
HANDSHAKE_GRACE_S = 0.5  # a session that is ended in its handshake waits so long for its end
AGENT_GRACE_S = 1.0  # to clean up, before the client is told
MAX_EARLY_PACKETS = 16  # media that came before its keys

log = logging.getLogger("voicerelay.session")


class State(Enum):
    """Each state names those that may follow."""

    NEW = "new"
    CHECKING = "checking"
    CONNECTED = "connected"
    CLOSED = "closed"


_CHECKING, _CONNECTED = State.CHECKING, State.CONNECTED  # for the path of a packet

FOLLOWING = {
    State.NEW: {State.CHECKING, State.CLOSED},
    State.CHECKING: {State.CHECKING, State.CONNECTED, State.CLOSED},
    State.CONNECTED: {State.CHECKING, State.CLOSED},  # the client has made a new peer connection
    State.CLOSED: set[State](),
}


class LiveSession(Conversation):
    """A Session as the transceiver runs it; also the mux's Endpoint and the seam's Link."""

    def __init__(
        self,
        public_id: str,
        number: int,
        agent: Agent,
        mux: Mux,
        directory: Directory,
        candidates: list[tuple[str, int]],
        pacer: Pacer,
        request: Request,
    ) -> None:
        super().__init__(public_id, pacer, request)
        self.number = number
        self.etag = secrets.token_urlsafe(9)
        self.candidates = candidates
        self.state = State.NEW
        self.ended = asyncio.Event()
        self.end_reason = ""
        self._offered_at = time.monotonic()
        self.milestones = Milestones(self._offered_at)
        self.relay: int | None = None
        self._agent = agent
        self._mux = mux
        self._reach = Reach(self, number, mux, directory, self._checked)
        self._media = Media(self.short_id, mux, self._reach, self._hearing, self._speaking)
        self._peer: Peer | None = None
        self._early: list[tuple[bytes, bytes]] = []
        self._keys = asyncio.Event()
        self._agent_task: asyncio.Task[None] | None = None
        self._close_task: asyncio.Task[None] | None = None

    # ---- life --------------------------------------------------------------------------------

    async def open(self, offer: Offer, ufrag: bytes) -> str:
        """Register the route and answer. Raises DirectoryError or NotAcceptable."""
        try:
            await self._reach.open(ufrag, offer.ice_ufrag)
            if self.state is State.CLOSED:
                raise NotAcceptable("the session was ended while it began")
            self._peer = peer = answer(offer, self)
            self._move(State.CHECKING)
            self.milestones.reach(Milestone.ANSWERED, time.monotonic())
        except BaseException:
            self._reach.close()
            raise
        return peer.answer

    async def reoffer(self, offer: Offer, ufrag: bytes, fresh: bool) -> str:
        """Answer another offer of the same client; the agent goes on.

        fresh: with a new peer connection. Raises DirectoryError or NotAcceptable; the old one stays.
        """
        old = self._peer
        if self.state is State.CLOSED or old is None:
            raise NotAcceptable("the session has ended")
        if fresh or offer.ice_ufrag.encode() != self._reach.ice.credentials.remote_ufrag:
            await self._reach.restart(ufrag, offer.ice_ufrag)
        if self._peer is not old:
            raise NotAcceptable("another offer came meanwhile")
        if not fresh:
            answered = old.renegotiate(offer)
            self._media.follow()
            return answered
        self._peer = peer = answer(offer, self)
        self._offered_at = time.monotonic()
        self._keys.clear()
        self._early.clear()
        self._move(State.CHECKING)
        self._media.end()
        await old.close()
        return peer.answer

    async def restart_ice(self, ufrag: bytes, remote_ufrag: str) -> Credentials:
        """New credentials (RFC 9725 §4.3.3). Raises DirectoryError; then the old ones stay."""
        credentials = await self._reach.restart(ufrag, remote_ufrag)
        self.etag = secrets.token_urlsafe(9)
        return credentials

    def end(self, reason: str) -> None:
        """End the call, once; the rest follows in the background until `ended`."""
        if self.state is State.CLOSED:
            return
        self._move(State.CLOSED)
        self.end_reason = reason
        told = {"session": self.short_id, "reason": reason}
        log.info("session %s ended: %s", self.short_id, reason, extra=told)
        self.hang_up()
        self._media.end()
        self._close_task = asyncio.get_running_loop().create_task(self._close())

    async def _close(self) -> None:
        if self._agent_task is not None:
            self._agent_task.cancel()
            await asyncio.wait([self._agent_task], timeout=AGENT_GRACE_S)
            if not self._agent_task.done():
                log.warning("session %s: its agent goes on after its end", self.short_id)
        try:
            if self._peer is not None:
                if self._peer.dtls_state == "connecting":
                    # Only a finished handshake can carry the goodbye.
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._keys.wait(), HANDSHAKE_GRACE_S)
                await asyncio.sleep(0)  # a last message leaves with the loop's next round
                await self._peer.close()
        except Exception:
            log.exception("session %s: closing the peer connection", self.short_id)
        finally:
            self._peer = None  # it knows us, and a ring waits for the collector with all its memory
            self._reach.close()
            self.ended.set()

    def sweep(self, now: float) -> None:
        """Time-outs, idle paths and RTCP; called about once a second."""
        if self.state is State.CLOSED:
            return
        if self.state is State.CHECKING and now - self._offered_at > SETUP_TIMEOUT_S:
            self.end("no media within the setup time")
            return
        if self._reach.ice.expired(now):
            self.end("consent expired: no checks from the client")
            return
        self._reach.sweep(now)
        self._speaking.outbound.sweep(now)
        report = self._media.report(now)
        if report is not None:
            self.send_protected(report, rtcp=True)

    def _move(self, state: State) -> None:
        assert state in FOLLOWING[self.state], (self.state, state)
        self.state = state

    # ---- from the mux ------------------------------------------------------------------------

    def stun_received(self, data: bytes, path: bytes, relay: int | None) -> None:
        """A STUN datagram; replied to once its flow stands in the table (law 2)."""
        if self._reach.stun(data, path):
            self.relay = relay

    def path_lost(self, path: bytes) -> None:
        """Another session proved that this path is its own."""
        self._reach.path_lost(path)
        self._media.follow()

    def datagram_received(self, data: bytes, path: bytes, relay: int | None) -> None:
        """DTLS, SRTP or SRTCP from a path with a flow."""
        self.relay = relay
        if self.state is not _CHECKING or data[0] < FIRST_RTP_BYTE:
            self._judge(data, path)
        elif len(self._early) < MAX_EARLY_PACKETS:
            # The client's last flight is on its way through aiortc's task; its media comes behind.
            self._early.append((data, path))
        else:
            self._mux.drop(TransceiverCounter.DROPPED_QUEUE_FULL)

    def _judge(self, data: bytes, path: bytes) -> None:
        peer = self._peer
        if peer is None or path not in self._reach.ice.valid:
            self._mux.drop(TransceiverCounter.DROPPED_UNVALIDATED_PATH)
            return
        reason = guard.objection(data)
        if reason is not None:
            self._mux.drop(reason)
        elif data[0] < FIRST_RTP_BYTE:
            peer.deliver(data)
            self._mux.delivered()
        elif not self._media.take(peer, data, path):
            self._mux.drop(TransceiverCounter.DROPPED_SRTP)

    def _checked(self) -> None:
        if self._peer is not None:
            self.milestones.reach(Milestone.CHECKED, time.monotonic())
            self._peer.ready()
            self._media.follow()

    # ---- from the seam -----------------------------------------------------------------------

    @property
    def ufrag(self) -> str:
        return self._reach.ice.credentials.ufrag.decode()

    @property
    def password(self) -> str:
        return self._reach.ice.credentials.password.decode()

    @property
    def selected_path(self) -> bytes | None:
        """Of the client, while it has one."""
        return self._reach.ice.selected

    def send_datagram(self, data: bytes) -> None:
        """To the client, by the selected path; without one it counts as loss."""
        if self._reach.ice.selected is not None:
            self._mux.send(data, self._reach.ice.selected)

    def media_started(self, payload_type: int, ssrc: int) -> None:
        """DTLS is up: keys are there, the agent may speak."""
        self._keys.set()
        if self.state is not State.CHECKING:
            return
        self._move(State.CONNECTED)
        now = time.monotonic()
        self.milestones.reach(Milestone.CONNECTED, now)
        assert self._peer is not None
        self._voice = self._media.begin(self._peer, payload_type, ssrc)
        if self._agent_task is None:
            self.begun_at = now
            self._agent_task = asyncio.get_running_loop().create_task(self._run_agent())
        early, self._early = self._early, []
        for data, path in early:
            self._judge(data, path)
        self._mux.hand_on()
        log.info(
            "session %s connected in %.0f ms",
            self.short_id,
            (now - self._offered_at) * 1000,
            extra={"session": self.short_id},
        )

    def peer_state(self, state: str) -> None:
        if state == "failed":
            self.end("ICE or DTLS failed")
        elif state == "closed":
            self.end("the client hung up")

    def channel_opened(self, channel: DataChannel) -> bool:
        return self._channels.opened(channel)

    def message_received(self, label: str, data: str | bytes) -> None:
        if not self._channels.received(label, data):
            self._note(TransceiverCounter.MESSAGES_DROPPED_UNREAD)

    @property
    def sending(self) -> bool:
        peer = self._peer
        return self.state is _CONNECTED and peer is not None and peer.sends

    def send_protected(self, data: bytes, rtcp: bool) -> None:
        secret = self._peer.protect(data, rtcp) if self._peer is not None else None
        if secret is not None:
            self.send_datagram(secret)

    # ---- for the agent -----------------------------------------------------------------------

    def _note(self, what: TransceiverCounter, by: int = 1) -> None:
        self._mux.note(what, by)

    async def _run_agent(self) -> None:
        """Whatever the agent does, SystemExit included, it ends its own call alone."""
        try:
            await self._agent(self)
        except asyncio.CancelledError:
            self.end("the agent was cancelled")
            raise
        except (Exception, SystemExit, KeyboardInterrupt, BaseExceptionGroup) as exc:
            if not _says_closed(exc):
                log.exception("session %s: the agent failed", self.short_id)
                self.end("the agent failed")
                return
        self.end("the agent has finished")

    def describe(self) -> dict[str, Any]:
        """Figures for the demo page and operators; no addresses, no keys."""
        return {
            "session": self.id,
            "state": self.state.value,
            "relay": self.relay,
            "ice": self._reach.ice.state.value,
            "dtls": self._peer.dtls_state if self._peer else "new",
        } | asdict(self.stats())


def _says_closed(exc: BaseException) -> bool:
    """Whether an agent was told that its call has ended, and nothing else went wrong."""
    if isinstance(exc, BaseExceptionGroup):
        return exc.split(SessionClosed)[1] is None
    return isinstance(exc, SessionClosed)
