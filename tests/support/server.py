"""Runs a real voicerelay beside a test and always takes it down again, by its own process id."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

READY = "voicerelay is ready"
READY_TIMEOUT_S = 20
STOP_TIMEOUT_S = 10
STATUS_TIMEOUT_S = 10
PORT_ATTEMPTS = 20


class ServerError(Exception):
    """The server did not start, or a command sent to it failed; the text holds its output."""


class Server:
    """A started server; `server()` makes it."""

    def __init__(
        self, process: subprocess.Popen[str], port: int, http_url: str, run_dir: Path
    ) -> None:
        self.port = port
        self.http_url = http_url
        self.run_dir = run_dir
        self.pid = process.pid
        self._process = process
        self._lines: list[str] = []
        self._ready_or_gone = threading.Event()
        # The pipe is always drained: a server that blocks on its own log would fail the test.
        self._reader = threading.Thread(target=self._read, name="server-output", daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        """Everything the server has written so far, stdout and stderr."""
        return "".join(self._lines)

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait for the line that begins with "voicerelay is ready"; raises ServerError."""
        self._ready_or_gone.wait(timeout_s)
        if not any(line.startswith(READY) for line in self._lines):
            code = self._process.poll()
            what = f"not ready within {timeout_s} s" if code is None else f"exited with {code}"
            raise ServerError(f"server {what}; it wrote:\n{self.output}")

    def status(self) -> dict[str, Any]:
        """What `voicerelay status --json` tells. Blocks for the time of one Python start."""
        command = [sys.executable, "-P", "-m", "voicerelay", "status", "--json"]
        done = subprocess.run(
            [*command, "--run-dir", str(self.run_dir)],
            check=False,
            capture_output=True,
            text=True,
            timeout=STATUS_TIMEOUT_S,
        )
        if done.returncode:
            raise ServerError(f"status exited with {done.returncode}: {done.stdout}{done.stderr}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def stop(self) -> int:
        """End the server like an operator would (SIGTERM); kills it if it takes too long.

        Returns the exit code, negative for a signal: -9 says that it had to be killed.
        """
        if self._process.poll() is None:
            self._process.terminate()
        try:
            code = self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait(STOP_TIMEOUT_S)
        self._reader.join(STOP_TIMEOUT_S)
        return code

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.append(line)
                if line.startswith(READY):
                    self._ready_or_gone.set()
        self._ready_or_gone.set()


@contextlib.contextmanager
def server(
    *,
    relays: int = 2,
    transceivers: int = 2,
    listen: Sequence[str] = ("127.0.0.1",),
    app: str | None = None,
    extra: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
    ready_timeout_s: float = READY_TIMEOUT_S,
) -> Iterator[Server]:
    """A ready server on free ports of `listen`; `prefix` goes before the command.

    A test that puts it into a network namespace by `prefix` must itself run there to call it.
    Enter it on the main thread: the server is ended with the thread that started it.
    """
    port = free_port(socket.SOCK_DGRAM, listen or ("127.0.0.1",))
    http = f"127.0.0.1:{free_port(socket.SOCK_STREAM)}"
    run_dir = Path(tempfile.mkdtemp(prefix="voicerelay-run-"))
    command = [*prefix, sys.executable, "-P", "-m", "voicerelay", "start", *([app] if app else [])]
    for address in listen:
        command += ["--listen", address]
    command += ["--port", str(port), "--http", http, "--run-dir", str(run_dir)]
    command += ["--relays", str(relays), "--transceivers", str(transceivers), *extra]
    guard = shutil.which("setpriv")  # so that a killed test run takes its server along
    process = subprocess.Popen(
        [*([guard, "--pdeathsig", "KILL"] if guard else []), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
    )
    running = Server(process, port, f"http://{http}", run_dir)
    try:
        running.wait_ready(ready_timeout_s)
        yield running
    finally:
        running.stop()
        shutil.rmtree(run_dir, ignore_errors=True)


def free_port(kind: socket.SocketKind, addresses: Sequence[str] = ("127.0.0.1",)) -> int:
    """A port that is free at this moment on all `addresses`; raises ServerError."""
    for _ in range(PORT_ATTEMPTS):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            port = 0
            for address in addresses:
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                probe = stack.enter_context(socket.socket(family, kind))
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind((address, port))
                port = int(probe.getsockname()[1])
            return port
    raise ServerError(f"no port is free on all of {addresses}")
