"""The processes of one instance: control, relays, transceivers; started, watched, replaced, retired, stopped."""

import asyncio
import logging
import signal
from collections.abc import Iterable
from dataclasses import dataclass

from voicerelay.cli import told
from voicerelay.cli.child import Child, Kept
from voicerelay.cli.config import Config
from voicerelay.cli.errors import UserError
from voicerelay.cli.place import Place
from voicerelay.cli.succession import Estate
from voicerelay.shm import rundir
from voicerelay.shm.counters import MAX_TRANSCEIVERS, ControlCounter, TransceiverCounter
from voicerelay.shm.order import DRAIN, OPEN, RETIRE, Order
from voicerelay.shm.region import Region, RegionMismatch

READY_TIMEOUT_S = 60.0  # importing FastRTC takes a core 7 s, and each transceiver does it
STOP_TIMEOUT_S = 4.0
PEERS_TIMEOUT_S = 5.0  # for everybody to be back at a new control
LOOK_S = 0.05
CONTROL_LOOK_S = 0.25
CONTROL_HUNG_LOOKS = 6  # looks at a heartbeat that stands still before control is ended
CONTROL_START_LOOKS = round(READY_TIMEOUT_S / CONTROL_LOOK_S)

log = logging.getLogger("voicerelay")


@dataclass
class Post:
    """A transceiver's slot: its child, and whether it is to take no new calls."""

    slot: int
    child: Child
    draining: bool

    @property
    def retiring(self) -> bool:
        """Whether it ends after its last call, and is not started again."""
        return self.child.stopping


class Fleet:
    """`config` is what the next process is started with; a transceiver keeps the one it came with."""

    def __init__(self, config: Config, place: Place) -> None:
        self.config = config
        self.posts: dict[int, Post] = {}
        self.stragglers = 0  # calls ended by deadlines, of transceivers that have gone
        self._place = place
        self._stopping = False
        self._region: Region | None = None
        self.control = Child(
            "control",
            "voicerelay.control",
            lambda lifeline: told.control(self.config, place, lifeline),
            place.fds,
            self._ended,
        )
        self.relays = [self._relay(index) for index in range(config.relays)]
        self.admin = self._admin() if config.admin_address is not None else None

    @property
    def slots(self) -> int:
        """How many transceivers there can be at once; steered ones need sockets made at the start."""
        return len(self._place.steering.sockets) or MAX_TRANSCEIVERS

    @property
    def staying(self) -> list[int]:
        """Slots of the transceivers that do not retire."""
        return sorted(slot for slot, post in self.posts.items() if not post.retiring)

    @property
    def retiring(self) -> list[int]:
        """Slots of those that do."""
        return sorted(slot for slot, post in self.posts.items() if post.retiring)

    def chosen(self, slots: list[int]) -> list[int]:
        """These, or all that stay when there are none. Raises UserError."""
        for slot in slots:
            if slot not in self.posts:
                raise UserError(f"there is no transceiver {slot} (voicerelay status shows them)")
        return slots or self.staying

    # ---- beginning and end -------------------------------------------------------------------

    async def start_all(self) -> None:
        """Start everything and wait until it is ready. Raises UserError."""
        await self._begin([self.control])
        posts = [self._post(slot, self.config, False) for slot in range(self.config.transceivers)]
        await self._begin(self.relays + [post.child for post in posts] + self._beside)
        self._watch_control()

    def take_over(self, estate: Estate) -> None:
        """Go on with what an earlier supervisor has left, and start what died meanwhile."""
        self.stragglers = estate.stragglers
        for slot, draining in estate.posts:
            self._post(slot, self.config, draining)
        kept = {child.name: child for child in estate.kept}
        for child in self._all():
            if child.name in kept:
                child.take_over(kept[child.name])
            else:
                child.start()
        self._watch_control()

    def keep(self) -> tuple[list[Kept], list[tuple[int, bool]]]:
        """What `take_over` needs."""
        children = [kept for child in self._all() if (kept := child.keep()) is not None]
        names = {kept.name for kept in children}
        posts = [p for p in self.posts.values() if not p.retiring or p.child.name in names]
        return children, [(post.slot, post.draining) for post in posts]

    async def stop_all(self) -> None:
        """Transceivers before relays, so that they can say goodbye; control last."""
        self._stopping = True
        for child in self._all():
            child.stop(signal.SIGCONT)  # marks it as stopping; wakes one that is stopped
        transceivers = [post.child for post in self.posts.values()]
        for group in (self._beside, transceivers, self.relays, [self.control]):
            for child in group:
                child.stop()
            await self._gone(group)

    # ---- one after the other -----------------------------------------------------------------

    async def start_held(self, slots: Iterable[int], config: Config) -> None:
        """Start transceivers that take no calls yet. Raises UserError, when none of them is left."""
        fresh = [self._post(slot, config, True) for slot in slots]
        try:
            await self._begin([post.child for post in fresh])
        except BaseException:
            for post in fresh:
                post.child.stop()
            await self._gone([post.child for post in fresh])
            for post in fresh:
                self.posts.pop(post.slot, None)
            raise

    def open(self, slots: Iterable[int]) -> None:
        """From now on these transceivers take new calls."""
        self._order(slots, Order(OPEN))

    def drain(self, slots: Iterable[int], deadline_s: int) -> None:
        """From now on these take none; what runs is ended after the deadline."""
        self._order(slots, Order(DRAIN, deadline_s))

    def retire(self, slots: Iterable[int], deadline_s: int) -> None:
        """The same, and then they end."""
        for slot in slots:
            post = self.posts[slot]
            post.draining = True
            post.child.retire(Order(RETIRE, deadline_s).encode())
            if not post.child.running:
                del self.posts[slot]

    async def gone(self, slots: Iterable[int]) -> None:
        """Wait until these transceivers, which retire, have ended."""
        for child in [self.posts[slot].child for slot in slots if slot in self.posts]:
            await child.exited.wait()

    async def replace_relay(self, index: int) -> str:
        """End a relay and wait for its successor; a sibling reads its socket meanwhile.

        Why there is no successor, else empty.
        """
        return await self._replace(self.relays[index])

    async def replace_admin(self) -> str:
        """The same with the admin process, where there is one."""
        return await self._replace(self.admin) if self.admin is not None else ""

    async def replace_control(self) -> str:
        """The same with control, and until everybody has found it."""
        reason = await self._replace(self.control)
        if reason or self._region is None:
            return reason
        block = self._region.counters.control()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PEERS_TIMEOUT_S
        peers = [*self.relays, *(post.child for post in self.posts.values())]
        while block.get(ControlCounter.PEERS) < sum(child.running for child in peers):
            if loop.time() > deadline:
                return f"not everybody has found it within {PEERS_TIMEOUT_S:.0f} s"
            await asyncio.sleep(LOOK_S)
        return ""

    # ---- figures -----------------------------------------------------------------------------

    def calls_of(self, slots: Iterable[int]) -> int:
        """How many go on in those of the transceivers that drain."""
        if self._region is None:
            return 0
        calls = 0
        for slot in slots:
            post, block = self.posts.get(slot), self._region.counters.transceiver(slot)
            if post is not None and post.draining and block.pid:
                told = block.get(TransceiverCounter.DRAINING)
                calls += block.get(TransceiverCounter.SESSIONS) if told else 1  # still to obey
        return calls

    def stragglers_of(self, slot: int) -> int:
        """Calls that a transceiver's deadline has ended; its block keeps them until the next owner."""
        if self._region is None:
            return 0
        block = self._region.counters.transceiver(slot)
        return block.get(TransceiverCounter.STRAGGLERS_ENDED)

    # ---- children ----------------------------------------------------------------------------

    def _all(self) -> list[Child]:
        transceivers = (post.child for post in self.posts.values())
        return [self.control, *self.relays, *transceivers, *self._beside]

    @property
    def _beside(self) -> list[Child]:
        """Who looks on; no call needs it."""
        return [self.admin] if self.admin is not None else []

    def _admin(self) -> Child:
        def settings(lifeline: int) -> str:
            return told.admin(self.config, lifeline)

        return Child("admin", "voicerelay.cli.admin", settings, [], self._ended)

    def _relay(self, index: int) -> Child:
        def settings(lifeline: int) -> str:
            return told.relay(self.config, index, lifeline)

        return Child(f"relay {index}", "voicerelay.relay", settings, [], self._ended)

    def _post(self, slot: int, config: Config, draining: bool) -> Post:
        def settings(lifeline: int) -> str:
            return told.transceiver(config, self._place, slot, post.draining, lifeline)

        child = Child(f"transceiver {slot}", "voicerelay.transceiver", settings, [], self._ended)
        post = self.posts[slot] = Post(slot, child, draining)
        return post

    def _order(self, slots: Iterable[int], order: Order) -> None:
        for slot in slots:
            post = self.posts[slot]
            if post.retiring and order.what == OPEN:
                raise UserError(f"transceiver {slot} retires, its successors are there already")
            post.draining = order.what != OPEN
            post.child.tell(order.encode())

    async def _replace(self, child: Child) -> str:
        """End it and wait for its successor; why there is none, else empty."""
        pid = child.pid
        child.replace()
        killer = asyncio.get_running_loop().call_later(STOP_TIMEOUT_S, self._kill, child, pid)
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                return await asyncio.shield(child.reported)
        except TimeoutError:
            return f"not ready within {READY_TIMEOUT_S:.0f} s"
        finally:
            killer.cancel()

    async def _begin(self, children: list[Child]) -> None:
        """Start children and wait until each is ready. Raises UserError."""
        for child in children:
            child.start()
        done, pending = await asyncio.wait(
            [asyncio.ensure_future(_report_of(child)) for child in children],
            timeout=READY_TIMEOUT_S,
            return_when=asyncio.FIRST_EXCEPTION,
        )
        for task in pending:
            task.cancel()
        for task in done:
            task.result()
        if pending:
            raise UserError(f"not every process was ready within {READY_TIMEOUT_S:.0f} s")

    async def _gone(self, children: list[Child]) -> None:
        """Wait until they have ended; who takes too long is killed."""
        waits = [asyncio.ensure_future(child.exited.wait()) for child in children]
        if not waits:
            return
        _, late = await asyncio.wait(waits, timeout=STOP_TIMEOUT_S)
        if late:
            for child in children:
                child.stop(signal.SIGKILL)
            await asyncio.wait(late)

    def _kill(self, child: Child, pid: int | None) -> None:
        if child.pid == pid:
            child.send_signal(signal.SIGKILL)

    def _ended(self, child: Child, code: int) -> None:
        for slot, post in list(self.posts.items()):
            if post.child is child and post.retiring:
                self.stragglers += self.stragglers_of(slot)
                del self.posts[slot]
        if not self._stopping and not child.stopping:
            why = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            about = {"about": child.name}
            log.warning("%s ended (%s), starting it again", child.name, why, extra=about)

    def _watch_control(self) -> None:
        """Control watches everybody; this watches control, as a WatchdogSec would."""
        try:
            name = rundir.region_name(self.config.run_dir)
            self._region = region = Region.attach(name, self._place.instance)
        except RegionMismatch as exc:
            raise UserError(f"control: the shared tables are not usable: {exc}") from None
        loop = asyncio.get_running_loop()
        block = region.counters.control()
        last, still = 0, 0

        def look() -> None:
            nonlocal last, still
            beat = block.heartbeat_ns
            last, still = beat, 0 if beat != last else still + 1
            # One that starts on a busy host has not beaten yet.
            most = CONTROL_HUNG_LOOKS if self.control.ready else CONTROL_START_LOOKS
            if still >= most and not self._stopping:
                log.warning("control hangs; ended so that it is replaced")
                self.control.send_signal(signal.SIGKILL)
                still = 0
            loop.call_later(CONTROL_LOOK_S, look)

        look()


async def _report_of(child: Child) -> None:
    reason = await asyncio.shield(child.reported)
    if reason:
        raise UserError(f"{child.name}: {reason}")
