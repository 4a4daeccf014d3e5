"""How a session is reached: its ufrags and routes, its ICE agent, and the flows that control has written."""

import time
from collections.abc import Callable
from dataclasses import replace

from voicerelay.shm.counters import TransceiverCounter
from voicerelay.shm.ufrag import make_password
from voicerelay.transceiver.directory import Directory, DirectoryError
from voicerelay.transceiver.ice import Check, Credentials, ErrorReply, IceAgent
from voicerelay.transceiver.mux import Endpoint, Mux, Nobody

IDLE_PATH_S = 30.0  # a path that is not selected and no longer checked is given up
MAX_PENDING_PATHS = 16  # paths whose flow control is still to write
MAX_PENDING_CHECKS = 4  # a path


class Reach:
    """Keeps the mux, control's tables and the ICE agent of one session in step.

    `endpoint` is the session; `on_checked` follows every check that took effect.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        number: int,
        mux: Mux,
        directory: Directory,
        on_checked: Callable[[], None],
    ) -> None:
        self._endpoint = endpoint
        self._number = number
        self._mux = mux
        self._directory = directory
        self._on_checked = on_checked
        self._pending: dict[bytes, list[Check]] = {}
        self._ufrags: list[bytes] = []  # the last one is in force
        self._closed = False
        self.ice = IceAgent(Credentials(b"", b"", b""), consent_at=time.monotonic())

    async def open(self, ufrag: bytes, remote_ufrag: str) -> None:
        """First credentials, and their route. Raises DirectoryError."""
        self.name(ufrag, remote_ufrag)
        await self.publish()

    def name(self, ufrag: bytes, remote_ufrag: str = "") -> None:
        """First credentials, that nobody is told yet."""
        self.ice.credentials = Credentials(ufrag, make_password(), remote_ufrag.encode())

    def met(self, remote_ufrag: str) -> None:
        """What the client signs its checks with, when it becomes known after `name`."""
        self.ice.credentials = replace(self.ice.credentials, remote_ufrag=remote_ufrag.encode())

    async def publish(self) -> None:
        """The first credentials' route. Raises DirectoryError."""
        await self._add_route(self.ice.credentials.ufrag)

    async def restart(self, ufrag: bytes, remote_ufrag: str) -> Credentials:
        """ICE restart: new credentials and route. Raises DirectoryError; then the old ones stay."""
        credentials = Credentials(ufrag, make_password(), remote_ufrag.encode())
        await self._add_route(ufrag)
        if self._closed:  # while control was asked
            self._keep_ufrags(0)
            raise DirectoryError("the session has ended")
        self.ice.restart(credentials, time.monotonic())
        # The credentials before the last ones no longer count, so their route must go too.
        self._keep_ufrags(2)
        return credentials

    def close(self) -> None:
        """Give up every path and route."""
        self._closed = True
        for path in list(self.ice.valid):
            self._forget_path(path)
        self.ice.close()
        self._keep_ufrags(0)
        self._endpoint, self._on_checked = Nobody(), lambda: None  # both know us

    def sweep(self, now: float) -> None:
        """Give up what is no longer used."""
        for path, entry in list(self.ice.valid.items()):
            if path != self.ice.selected and now - entry.checked_at > IDLE_PATH_S:
                self.ice.lose(path)
                self._forget_path(path)
        if not self.ice.overlapping(now):
            self._keep_ufrags(1)

    def path_lost(self, path: bytes) -> None:
        """Another session's authenticated check came from this path: it is not ours any more."""
        if self._mux.by_path.get(path) is self._endpoint:
            del self._mux.by_path[path]
        self.ice.lose(path)

    def stun(self, data: bytes, path: bytes) -> bool:
        """A STUN datagram, replied to once its flow stands in the table (law 2).

        False when it is dropped at once.
        """
        now = time.monotonic()
        result = self.ice.receive(data, path, now)
        if isinstance(result, TransceiverCounter):
            self._mux.drop(result)
            return False
        if isinstance(result, ErrorReply):
            self._mux.delivered()
            self._mux.send(result.reply, path)
        elif result.known_path and self._mux.by_path.get(path) is self._endpoint:
            self._accept(result, now)
        else:
            self._commit(result)
        return True

    def _commit(self, check: Check) -> None:
        waiting = self._pending.get(check.path)
        room = len(waiting or ()) < MAX_PENDING_CHECKS and len(self._pending) < MAX_PENDING_PATHS
        if not room:
            self._mux.drop(TransceiverCounter.DROPPED_QUEUE_FULL)
        elif waiting is not None:
            waiting.append(check)
        else:
            self._pending[check.path] = [check]
            self._directory.commit(
                check.path, self._number, lambda error: self._committed(check.path, error)
            )

    def _committed(self, path: bytes, error: str) -> None:
        checks = self._pending.pop(path)
        if error:
            for _ in checks:
                self._mux.drop(TransceiverCounter.DROPPED_CONTROL_UNAVAILABLE)
            return
        if self._closed:
            self._directory.release(path, self._number)
            return
        owner = self._mux.by_path.get(path)
        if owner is not None and owner is not self._endpoint:
            owner.path_lost(path)
        self._mux.by_path[path] = self._endpoint
        now = time.monotonic()
        for check in checks:
            self._accept(check, now)

    def _accept(self, check: Check, now: float) -> None:
        forgotten = self.ice.accept(check, now)
        if forgotten is not None:
            self._forget_path(forgotten)
        self._mux.delivered()
        self._mux.send(check.reply, check.path)
        self._on_checked()

    async def _add_route(self, ufrag: bytes) -> None:
        await self._directory.register(ufrag, self._number)
        self._mux.by_ufrag[ufrag] = self._endpoint
        self._ufrags.append(ufrag)

    def _keep_ufrags(self, newest: int) -> None:
        stale = self._ufrags[: len(self._ufrags) - newest] if newest else self._ufrags[:]
        for ufrag in stale:
            self._ufrags.remove(ufrag)
            if self._mux.by_ufrag.get(ufrag) is self._endpoint:
                del self._mux.by_ufrag[ufrag]
            self._directory.unregister(ufrag)

    def _forget_path(self, path: bytes) -> None:
        if self._mux.by_path.get(path) is self._endpoint:
            del self._mux.by_path[path]
        self._directory.release(path, self._number)
