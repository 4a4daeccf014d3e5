"""Who is compared, each in processes of its own on one core, with callers on the other."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.voice.caller import ROOT, Talk
from bench.voice.watch import pin
from tests.support.server import ServerError, free_port, server
from voicerelay.cli.status import read_status

HERE = Path(__file__).parent
READY_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Cores:
    """One for what is measured, one for all else."""

    tested: int
    others: int
    priority: int = 0  # niceness of what is measured and of the callers


@dataclass
class Running:
    """A started contender. `charged`: the process under test; `beside`: what else it needs."""

    url: str
    charged: int
    beside: dict[str, int]
    folder: Path

    def lateness(self, since: float, until: float) -> list[dict[str, float]]:
        """The pacer's own figures in a span of time."""
        path = self.folder / "figures"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for text in lines if since <= (line := json.loads(text))["at"] <= until]


@dataclass(frozen=True)
class Contender:
    """`calls`: at which its CPU is measured, most of a core."""

    key: str
    title: str
    calls: int
    app: str = ""  # ours: module:name in bench.voice
    mode: str = ""  # stock's
    extra: tuple[str, ...] = ()

    @contextlib.contextmanager
    def start(self, cores: Cores) -> Iterator[Running]:
        with tempfile.TemporaryDirectory(prefix="voice-bench-") as folder:
            start = self._ours if self.app else self._stock
            with start(cores, Path(folder)) as running:
                yield running

    @contextlib.contextmanager
    def _ours(self, cores: Cores, folder: Path) -> Iterator[Running]:
        env = {
            "PYTHONPATH": str(ROOT),
            "VOICE_BENCH_FIGURES": str(folder / "figures"),
            "VOICE_BENCH_EARS": str(folder),
        }
        extra = ("--log-level", "warning", "--max-sessions", "1000", *self.extra)
        with server(
            relays=1,
            transceivers=1,
            app=f"bench.voice.{self.app}",
            env=env,
            extra=extra,
            ready_timeout_s=READY_TIMEOUT_S,
        ) as live:
            status = read_status(live.run_dir)
            transceiver = status["transceivers"][0]["pid"]
            relay, control = status["relays"][0]["pid"], status["control"]["pid"]
            pin(transceiver, cores.tested, cores.priority)
            for pid in (relay, control, live.pid):
                pin(pid, cores.others, cores.priority)
            beside = {"relay": relay, "control": control}
            yield Running(live.http_url, transceiver, beside, folder)
            if os.environ.get("VOICE_BENCH_LOG"):
                sys.stderr.write(live.output)

    @contextlib.contextmanager
    def _stock(self, cores: Cores, folder: Path) -> Iterator[Running]:
        port = free_port(socket.SOCK_STREAM)
        settings = {"mode": self.mode, "folder": str(folder), "port": port}
        with child(HERE / "stock.py", settings) as stock:
            pin(stock.pid, cores.tested, cores.priority)
            yield Running(f"http://127.0.0.1:{port}", stock.pid, {}, folder)


@contextlib.contextmanager
def child(script: Path, settings: dict[str, Any]) -> Iterator["subprocess.Popen[str]"]:
    """A script of ours, once it says "ready"; ended by its input's end, or by force."""
    process = subprocess.Popen(
        [sys.executable, "-P", str(script), json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "ready\n":
            raise ServerError(f"{script.name} did not start")
        yield process
    finally:
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def talk_to(running: Running, cores: Cores, talk: Talk) -> dict[str, Any]:
    """Hold calls for a while; the caller's figures."""
    talk.url, talk.cpu, talk.priority = running.url, cores.others, cores.priority
    talk.watch = [running.charged, *running.beside.values()]
    with child(HERE / "caller.py", asdict(talk)) as caller:
        assert caller.stdin is not None
        assert caller.stdout is not None
        caller.stdin.write("talk\n")
        caller.stdin.flush()
        line = caller.stdout.readline()
        caller.stdin.write("hang up\n")
        caller.stdin.flush()
        caller.stdout.readline()
    if not line:
        raise ServerError("the callers failed")
    figures: dict[str, Any] = json.loads(line)
    return figures


OURS = Contender("ours", "**voicerelay, fresh PCM**", 40, app="agents:fresh")
CONTENDERS = [
    OURS,
    Contender("ours_echo", "**voicerelay, echo of PCM**", 40, app="agents:echo"),
    Contender(
        "ours_portable",
        "voicerelay, fresh PCM, --steering off",
        40,
        app="agents:fresh",
        extra=("--steering", "off"),
    ),
    Contender("compat", "stock tracks over our transport, fresh PCM", 10, app="compat:fresh"),
    Contender("stock", "stock aiortc, fresh PCM", 10, mode="fresh"),
    Contender("stock_echo", "stock aiortc, echo", 6, mode="echo"),
]
OURS_EARS = Contender("ours", "**voicerelay**", 0, app="agents:ears")
STOCK_EARS = Contender("stock", "stock aiortc", 0, mode="ears")
