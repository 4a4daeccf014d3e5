"""A call whose peer connection the app has made itself, with aiortc's own tracks, on our transport."""

import asyncio
import logging
import time
from contextvars import ContextVar
from typing import Protocol
from weakref import WeakValueDictionary

from voicerelay.shm.counters import TransceiverCounter
from voicerelay.transceiver import guard
from voicerelay.transceiver.directory import Directory, DirectoryError
from voicerelay.transceiver.mux import Mux
from voicerelay.transceiver.reach import Reach
from voicerelay.transceiver.registry import Registry
from voicerelay.transceiver.session import SETUP_TIMEOUT_S

MAX_KEYS = 8  # names that a call is found by, such as Pipecat's pc_id

log = logging.getLogger("voicerelay.session")

# The calls that began while an HTTP request was handled; None outside of one.
begun_by_request: ContextVar["list[StockCall] | None"] = ContextVar(
    "voicerelay_begun", default=None
)


class Transport(Protocol):
    """One transport of the peer connection; those that are bundled into another end at once."""

    def ready(self) -> None: ...

    def take(self, data: bytes, path: bytes) -> bool: ...

    async def goodbye(self) -> None: ...


class StockHost:
    """Makes the calls of the app's peer connections, and finds them by their ufrag."""

    def __init__(self, registry: Registry, mux: Mux, directory: Directory) -> None:
        self.registry = registry
        self.mux = mux
        self.directory = directory
        self._calls: WeakValueDictionary[str, StockCall] = WeakValueDictionary()

    def call(self, ufrag: str | None) -> "StockCall":
        """The call that has this ufrag, for a further transport of it; else a new one."""
        found = self._calls.get(ufrag) if ufrag else None
        if found is None:
            found = StockCall(self)
            self.know(found)
        return found

    def know(self, call: "StockCall") -> None:
        """Find the call by the ufrag that it has now."""
        self._calls[call.ufrag] = call


class StockCall:
    """One peer connection of the app: the mux's Endpoint, the registry's Member, its transports' Carrier.

    It counts as a call from `begin` (aiortc gathers candidates) until its last transport is closed.
    """

    def __init__(self, host: StockHost) -> None:
        self._host = host
        self._registry, self._mux, self._directory = host.registry, host.mux, host.directory
        self.id, self.number = self._registry.identity()
        self.candidates = self._registry.candidates
        self.ended = asyncio.Event()
        self.relay: int | None = None
        self._begun = self._connected = self._over = False
        self._begun_at = 0.0
        self._beginning = asyncio.Lock()
        self._transports: list[Transport] = []
        self._keys: set[bytes] = set()
        self._farewell: asyncio.Task[None] | None = None
        self._reach = Reach(self, self.number, self._mux, self._directory, self._checked)
        self._reach.name(self._registry.new_ufrag())

    @property
    def short_id(self) -> str:
        return self.id[-6:]

    # ---- life --------------------------------------------------------------------------------

    def attach(self, transport: Transport) -> None:
        self._transports.append(transport)

    def detach(self, transport: Transport) -> None:
        """The peer connection has closed a transport; the last one ends the call."""
        if transport in self._transports:
            self._transports.remove(transport)
            if not self._transports:
                self.end("closed by the app or the client")

    async def begin(self) -> None:
        """Count the call and make it reachable, once. Raises ServerFull or DirectoryError."""
        async with self._beginning:
            if self._begun:
                return
            self._registry.join(self)
            try:
                await self._reach.publish()
            except BaseException:
                self._registry.leave(self)
                raise
            self._begun = True
            self._begun_at = self._reach.ice.consent_at = time.monotonic()
            self._registry.started()
        begun = begun_by_request.get()
        if begun is not None:
            begun.append(self)
        if self._over:  # closed while control was asked
            self._reach.close()

    def met(self, remote_ufrag: str) -> None:
        """The client's ufrag is known."""
        self._reach.met(remote_ufrag)

    async def restart(self, remote_ufrag: str) -> None:
        """ICE restart: ufrag and password change. Raises DirectoryError; then the old ones stay."""
        await self._reach.restart(self._registry.new_ufrag(), remote_ufrag)
        self._host.know(self)

    async def claim(self, key: bytes) -> None:
        """Let siblings find the call by a key of 20 bytes, as long as it lasts."""
        if self._over or len(self._keys) >= MAX_KEYS:
            return
        self._keys.add(key)
        try:
            await self._directory.register(key, self.number)
        except DirectoryError as exc:
            log.warning("session %s may be missed by siblings: %s", self.short_id, exc)
            return
        if self.ended.is_set():  # meanwhile
            self._give_up_keys()

    def established(self) -> None:
        """DTLS is up."""
        if not self._connected and not self._over:
            self._connected = True
            took_ms = (time.monotonic() - self._begun_at) * 1000
            told = {"session": self.short_id}
            log.info("session %s connected in %.0f ms", self.short_id, took_ms, extra=told)

    def end(self, reason: str) -> None:
        """End the call, once: the client is told, the peer connection sees its transport fail."""
        if self._over:
            return
        self._over = True
        if self._begun:
            told = {"session": self.short_id, "reason": reason}
            log.info("session %s ended: %s", self.short_id, reason, extra=told)
            self._registry.figures.count_end(reason)
        self._registry.leave(self)
        self._farewell = asyncio.get_running_loop().create_task(self._close())

    async def _close(self) -> None:
        try:
            for transport in list(self._transports):
                await transport.goodbye()
        except Exception:
            log.exception("session %s: closing its transports", self.short_id)
        finally:
            self._transports.clear()
            self._give_up_keys()
            self._reach.close()
            self.ended.set()

    def _give_up_keys(self) -> None:
        for key in self._keys:
            if self._directory.routes.get(key) == self.number:  # no later call has claimed it
                self._directory.unregister(key)

    def sweep(self, now: float) -> None:
        """Time-outs and idle paths; called about once a second."""
        if not self._begun or self._over:
            return
        if not self._connected and now - self._begun_at > SETUP_TIMEOUT_S:
            self.end("no media within the setup time")
        elif self._reach.ice.expired(now):
            self.end("consent expired: no checks from the client")
        else:
            self._reach.sweep(now)

    # ---- from the mux ------------------------------------------------------------------------

    def stun_received(self, data: bytes, path: bytes, relay: int | None) -> None:
        """A STUN datagram; replied to once its flow stands in the table (law 2)."""
        if self._reach.stun(data, path):
            self.relay = relay

    def path_lost(self, path: bytes) -> None:
        """Another session proved that this path is its own."""
        self._reach.path_lost(path)

    def datagram_received(self, data: bytes, path: bytes, relay: int | None) -> None:
        """DTLS, SRTP or SRTCP from a path with a flow: aiortc decrypts all of it."""
        self.relay = relay
        reason = guard.objection(data)
        if path not in self._reach.ice.valid or not self._transports:
            reason = TransceiverCounter.DROPPED_UNVALIDATED_PATH
        elif reason is None and not self._transports[0].take(data, path):
            reason = TransceiverCounter.DROPPED_QUEUE_FULL
        if reason is None:
            self._mux.delivered()
        else:
            self._mux.drop(reason)

    def _checked(self) -> None:
        for transport in self._transports[:1]:
            transport.ready()

    # ---- from its transports -----------------------------------------------------------------

    @property
    def ufrag(self) -> str:
        return self._reach.ice.credentials.ufrag.decode()

    @property
    def password(self) -> str:
        return self._reach.ice.credentials.password.decode()

    def send_datagram(self, data: bytes) -> None:
        """To the client, by the selected path; without one it counts as loss."""
        if self._reach.ice.selected is not None:
            self._mux.send(data, self._reach.ice.selected)

    def authentic(self, path: bytes) -> None:
        """Media from a path has been decrypted; a silent path's call follows it."""
        if self._reach.ice.media(path, time.monotonic()):
            log.info("session %s moved: its media comes from another address", self.short_id)
