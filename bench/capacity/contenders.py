"""Who is compared, each on the same cores: voicerelay by either data plane, and the same agent as stock aiortc."""

import contextlib
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.capacity.stock import LATE_FILE
from bench.voice.contenders import child
from bench.voice.watch import Watched, pin
from tests.support.server import free_port, server
from voicerelay.cli.status import read_status

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).parent
MAX_SESSIONS = "5000"
CORES_A_RELAY = 4


@dataclass
class Started:
    """late_ms: frames behind their schedule, p99 of the last seconds, of the worst process."""

    urls: list[str]
    watched: Watched
    late_ms: Callable[[], float]

    def cpu_s(self) -> float:
        return sum(self.watched.cpu_s().values())

    def rss_bytes(self) -> int:
        return sum(sizes["rss_bytes"] for sizes in self.watched.sizes().values())


@dataclass(frozen=True)
class Contender:
    """`twin`: the stock contender that does the same."""

    key: str
    title: str
    twin: str
    start: Callable[[Sequence[int]], contextlib.AbstractContextManager[Started]]


def _ours(
    steering: str, agent: str
) -> Callable[[Sequence[int]], contextlib.AbstractContextManager[Started]]:
    @contextlib.contextmanager
    def start(cores: Sequence[int]) -> Iterator[Started]:
        with server(
            relays=max(1, len(cores) // CORES_A_RELAY),
            transceivers=len(cores),
            app=f"bench.voice.agents:{agent}",
            env={"PYTHONPATH": str(ROOT)},
            extra=["--log-level", "error", "--max-sessions", MAX_SESSIONS, "--steering", steering],
            prefix=["taskset", "-c", ",".join(map(str, cores))],
        ) as live:

            def status() -> dict[str, Any]:
                return read_status(live.run_dir)

            first = status()
            processes = [*first["relays"], *first["transceivers"], first["control"]]
            watched = Watched([live.pid, *(process["pid"] for process in processes)])
            yield Started(
                [f"{live.http_url}/whip"],
                watched,
                lambda: max(t["frame_lateness_p99_us"] for t in status()["transceivers"]) / 1000,
            )

    return start


def _stock(mode: str) -> Callable[[Sequence[int]], contextlib.AbstractContextManager[Started]]:
    """One process a core, as its users do; every call has a port of its own."""

    @contextlib.contextmanager
    def start(cores: Sequence[int]) -> Iterator[Started]:
        with contextlib.ExitStack() as stack:
            urls, pids, files = [], [], []
            for core in cores:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="capacity-"))
                port = free_port(socket.SOCK_STREAM)
                settings = {"mode": mode, "folder": folder, "port": port}
                process = stack.enter_context(child(HERE / "stock.py", settings))
                pin(process.pid, core)
                urls.append(f"http://127.0.0.1:{port}/whip")
                pids.append(process.pid)
                files.append(Path(folder) / LATE_FILE)
            yield Started(
                urls, Watched(pids), lambda: max(float(file.read_text() or 0) for file in files)
            )

    return start


CONTENDERS = (
    Contender("portable", "voicerelay, portable plane", "stock", _ours("off", "fresh")),
    Contender("steering", "voicerelay, kernel steering", "stock", _ours("on", "fresh")),
    Contender("stock", "stock aiortc, a process a core", "stock", _stock("fresh")),
    Contender("steering_echo", "voicerelay, echo of PCM", "stock_echo", _ours("on", "echo")),
    Contender("stock_echo", "stock aiortc, echo", "stock_echo", _stock("echo")),
)
