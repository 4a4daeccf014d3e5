"""The terminal of `top`: keys in, lines out, a look each interval; keeps on when the instance goes away."""

import asyncio
import os
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live

from voicerelay.cli.errors import NotRunning
from voicerelay.cli.top.sample import Sample, Sampler
from voicerelay.cli.top.snapshot import Json, snapshot
from voicerelay.cli.top.state import State, keys_of, press
from voicerelay.cli.top.view import MIN_HEIGHT, MIN_WIDTH, History, draw

SVG_WIDTH, SVG_HEIGHT = 110, 30
SVG_LOOKS = 30  # before the picture is taken, so that sparklines have something to show
KEY_BYTES = 64


class Top:
    """Looks, keeps what the last look said, and draws it."""

    def __init__(self, run_dir: Path, console: Console, state: State) -> None:
        self.state = state
        self._sampler = Sampler(run_dir)
        self._console = console
        self._history = History()
        self._sample: Sample | None = None
        self._shown: Json | None = None
        self._trouble = ""
        self._gone_since = 0.0

    async def look(self) -> None:
        """A fresh look; when there is nothing to see, the last one stays and says so."""
        try:
            sample = await self._sampler.take()
        except NotRunning:
            if not self._gone_since:
                self._gone_since = time.monotonic()
            away_s = time.monotonic() - self._gone_since
            self._trouble = f"gone for {away_s:.0f} s; waiting for it"
            self._sample = None  # figures a second would span the gap
            return
        self._trouble, self._gone_since = "", 0.0
        self._shown = snapshot(sample, self._sample)
        self._sample = sample
        self._history.add(self._shown["totals"])

    def lines(self) -> Group:
        width, height = self._console.size
        lines = draw(self._shown, self._history, self.state, width, height, self._trouble)
        return Group(*lines)

    async def run(self) -> None:
        """Until q. Needs a terminal."""
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def read_keys() -> None:
            data = os.read(sys.stdin.fileno(), KEY_BYTES)
            for key in keys_of(data.decode(errors="replace")) if data else ["q"]:
                self.state = press(self.state, key)
            changed.set()

        with _cbreak(), Live(console=self._console, screen=True, auto_refresh=False) as live:
            loop.add_reader(sys.stdin.fileno(), read_keys)
            try:
                due = loop.time()
                while not self.state.quit:
                    if loop.time() >= due:
                        due = loop.time() + self.state.interval_s
                        if not self.state.paused:
                            await self.look()
                    live.update(self.lines(), refresh=True)
                    changed.clear()
                    await _wait(changed, due - loop.time())
                    due = min(due, loop.time() + self.state.interval_s)
            finally:
                loop.remove_reader(sys.stdin.fileno())
                self._sampler.close()


async def once(run_dir: Path, interval_s: float) -> Json:
    """One snapshot, of two looks `interval_s` apart. Raises NotRunning."""
    sampler = Sampler(run_dir)
    try:
        before = await sampler.take()
        await asyncio.sleep(interval_s)
        return snapshot(await sampler.take(), before)
    finally:
        sampler.close()


def show(shown: Json) -> None:
    """Print a snapshot with all its calls; as wide as the terminal, or 80 characters."""
    console = Console()
    rows = sum(len(shown[key]) for key in ("relays", "transceivers", "sessions"))
    history = History()
    history.add(shown["totals"])
    height = 4 * (rows + MIN_HEIGHT)  # the processes have a quarter of it
    lines = draw(shown, history, State(), max(console.width, MIN_WIDTH), height)[:-1]
    while not lines[-1].plain:
        lines.pop()
    for line in lines:
        console.print(line, soft_wrap=True)


async def live(run_dir: Path, interval_s: float) -> None:
    """The live view, until q or Ctrl-C."""
    await Top(run_dir, Console(), State(interval_s=interval_s)).run()


async def picture(run_dir: Path, interval_s: float) -> str:
    """The live view as an SVG, after it has looked for a while. Raises NotRunning."""
    console = Console(
        record=True, file=StringIO(), force_terminal=True, width=SVG_WIDTH, height=SVG_HEIGHT
    )
    top = Top(run_dir, console, State(interval_s=interval_s))
    for _ in range(SVG_LOOKS):
        await top.look()
        await asyncio.sleep(interval_s)
    console.print(top.lines())
    return console.export_svg(title="voicerelay top")


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), max(0.0, seconds))
    except TimeoutError:
        return


@contextmanager
def _cbreak() -> Iterator[None]:
    """Keys as they are pressed, not echoed; as it was before, afterwards."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
