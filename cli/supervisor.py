"""The supervisor: owns the public sockets and the processes, restarts what dies, rolls what is new, no more."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from voicerelay import __version__
from voicerelay.cli import roll, succession
from voicerelay.cli.commands import Asker, Command, Desk
from voicerelay.cli.config import Config, fixed_settings, need_a_start
from voicerelay.cli.errors import UserError
from voicerelay.cli.fleet import Fleet
from voicerelay.cli.place import Place
from voicerelay.cli.succession import Estate
from voicerelay.shm import rundir

LOOK_S = 0.1
SIGNALLED = {
    signal.SIGQUIT: Command("stop", drain=True),
    signal.SIGHUP: Command("reload"),
    signal.SIGUSR2: Command("upgrade"),
}

log = logging.getLogger("voicerelay")


class Supervisor:
    """Runs one instance from start to clean stop, or goes on with what an earlier version left.

    reread: the configuration as a start would find it now.
    """

    def __init__(
        self,
        config: Config,
        reread: Callable[[], Config] | None = None,
        estate: Estate | None = None,
    ) -> None:
        self._config = config
        self._reread = reread or (lambda: config)
        self._estate = estate
        self._place = Place(config) if estate is None else Place.inherit(config, estate)
        self._fleet: Fleet | None = None
        self._desk: Desk | None = None
        self._rolling = ""
        self._stop = asyncio.Event()
        self._draining_to_stop = False
        self._has_terminal = os.isatty(2)

    def prepare(self) -> bool:
        """Take the instance's place; True when there were leftovers of an earlier run.

        Raises UserError.
        """
        leftovers = self._place.take() if self._estate is None else False
        self._place.look_at_buffers()
        self._place.describe(self._config)
        return leftovers

    @property
    def hosts(self) -> list[str]:
        return self._place.hosts

    @property
    def candidates(self) -> list[tuple[str, int]]:
        return self._place.candidates

    @property
    def steered(self) -> bool:
        """Whether kernel steering is on."""
        return self._place.steered

    @property
    def portable_because(self) -> str:
        """Why it is not; empty when it is."""
        return self._place.steering.portable_because

    def release(self) -> None:
        """Close the sockets and leave nothing behind."""
        self._place.release()

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Start everything, call `on_ready`, and serve until told to stop.

        Raises UserError when a process cannot start.
        """
        loop = asyncio.get_running_loop()
        for number in succession.SIGNALS:
            loop.add_signal_handler(number, self._signalled, number)
        succession.listen()
        self._fleet = fleet = Fleet(self._config, self._place)
        try:
            stopped = loop.create_task(self._stop.wait())
            started = loop.create_task(self._start(fleet))
            await asyncio.wait({stopped, started}, return_when=asyncio.FIRST_COMPLETED)
            if started.done():
                started.result()
                self._desk = Desk(rundir.supervisor_socket(self._config.run_dir), self._obey)
                if self._estate is None:
                    on_ready()
                else:
                    finish = Command("finish", self._estate.deadline_s)
                    self._desk.give(finish, Asker.of(self._estate.asker))
                await stopped
            else:
                started.cancel()
        finally:
            stopped.cancel()
            if self._desk is not None:
                await self._desk.close()
            await fleet.stop_all()

    async def _start(self, fleet: Fleet) -> None:
        if self._estate is None:
            await fleet.start_all()
        else:
            fleet.take_over(self._estate)

    # ---- what is asked -----------------------------------------------------------------------

    def _signalled(self, number: int) -> None:
        """As nginx has it: TERM stops, QUIT drains and stops, HUP reloads, USR2 upgrades."""
        orphaned = number == signal.SIGHUP and self._has_terminal and not os.isatty(2)
        hastened = number == signal.SIGQUIT and (self._draining_to_stop or self._desk is None)
        if number in (signal.SIGINT, signal.SIGTERM) or orphaned or hastened:
            self._stop.set()
        elif self._desk is not None:
            self._desk.give(SIGNALLED[signal.Signals(number)], Asker(None))

    async def _obey(self, command: Command, asker: Asker) -> None:
        """Do what is asked. Raises UserError."""
        assert self._fleet is not None
        fleet, deadline_s = self._fleet, command.deadline_s
        if deadline_s is None:
            deadline_s = fleet.config.drain_deadline
        match command.kind:
            case "drain":
                await self._drain(fleet, command.slots, deadline_s, asker)
            case "undrain":
                slots = fleet.chosen(command.slots)
                fleet.open(slots)
                asker.done(f"new calls go to {roll.transceivers(slots)} again")
            case "reload":
                await self._reload(fleet, self._reread(), deadline_s, asker)
            case "upgrade":
                await self._upgrade(fleet, command.python or sys.executable, deadline_s, asker)
            case "finish":
                await self._finish(fleet, deadline_s, asker)
            case "stop":
                await self._stop_when_drained(fleet, command.drain, deadline_s, asker)

    async def _drain(self, fleet: Fleet, slots: list[int], deadline_s: int, asker: Asker) -> None:
        slots = fleet.chosen(slots)
        before = sum(map(fleet.stragglers_of, slots))
        fleet.drain(slots, deadline_s)
        asker.say(f"draining {roll.transceivers(slots)} for at most {deadline_s} s")
        asker.switched()
        while fleet.calls_of(slots):  # noqa: ASYNC110  (shared memory, no event of ours)
            await asyncio.sleep(LOOK_S)
        ended = sum(map(fleet.stragglers_of, slots)) - before
        asker.done(f"no call left in {roll.transceivers(slots)}{_stragglers(ended)}")

    async def _reload(
        self, fleet: Fleet, config: Config, deadline_s: int, asker: Asker, upgrade: bool = False
    ) -> None:
        with self._alone("upgrade" if upgrade else "reload"):
            if changed := need_a_start(self._config, config):
                raise UserError(
                    f"{', '.join(changed)}: changes with a start only; nothing was done"
                )
            old = await roll.reload(fleet, config, deadline_s, asker.say, control=upgrade)
            self._config = config
            self._place.describe(config)
        asker.switched()
        before = fleet.stragglers
        await fleet.gone(old)
        what = f"upgraded to version {__version__}" if upgrade else "reloaded"
        asker.done(what + _stragglers(fleet.stragglers - before))

    async def _upgrade(self, fleet: Fleet, python: str, deadline_s: int, asker: Asker) -> None:
        with self._alone("upgrade"):
            asker.say(await succession.check(python, self._will(fleet, asker, deadline_s)))
            succession.become(python, self._will(fleet, asker, deadline_s))

    async def _finish(self, fleet: Fleet, deadline_s: int, asker: Asker) -> None:
        """The second half of an upgrade, by the new version: everything else is the old one's still."""
        asker.say(f"the supervisor is of version {__version__}")
        try:
            await self._reload(fleet, self._config, deadline_s, asker, upgrade=True)
        except UserError as exc:
            raise UserError(f"only the supervisor is of the new version: {exc.message}") from None

    async def _stop_when_drained(
        self, fleet: Fleet, drain: bool, deadline_s: int, asker: Asker
    ) -> None:
        before = fleet.stragglers
        if drain:
            self._draining_to_stop = True
            slots = fleet.staying
            asker.say(f"draining {roll.transceivers(slots)} for at most {deadline_s} s")
            fleet.retire(slots, deadline_s)
            await fleet.gone(list(fleet.posts))
        asker.done("stopping" + _stragglers(fleet.stragglers - before))
        self._stop.set()

    @contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        """One roll at a time. Raises UserError."""
        if self._rolling or self._draining_to_stop:
            raise UserError(f"{self._rolling or 'a stop'} is under way; try again when it is done")
        self._rolling = f"a {what}" if what == "reload" else f"an {what}"
        try:
            yield
        finally:
            self._rolling = ""

    def _will(self, fleet: Fleet, asker: Asker, deadline_s: int) -> Estate:
        """What the next version gets, as it is now."""
        children, posts = fleet.keep()
        return self._place.bequeath(
            fixed=fixed_settings(self._config),
            asker=asker.fileno(),
            deadline_s=deadline_s,
            stragglers=fleet.stragglers,
            children=succession.estate_children(children),
            posts=posts,
        )


def _stragglers(ended: int) -> str:
    return f"; {ended} calls were ended by the deadline" if ended else ""
