"""`examples/realtime_backend.py` beside a test: started, killed, succeeded, and always taken down."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
KEY = "sk-of-the-backend"


class ScriptedBackend:
    """`examples/realtime_backend.py` as a process of its own."""

    def __init__(self, port: int, *options: str) -> None:
        self.port = port
        self.url = f"ws://127.0.0.1:{port}/v1/realtime"
        self._command = [sys.executable, str(ROOT / "examples" / "realtime_backend.py")]
        self._command += ["--port", str(port), "--key", KEY, *options]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert "ready" in self._process.stdout.readline()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        os.kill(self._process.pid, number)
        if number == signal.SIGKILL:
            self._process.communicate(timeout=10)

    def succeed(self) -> None:
        """Kill it while a successor stands by on the same port."""
        predecessor = self._process
        self.start()
        predecessor.kill()
        predecessor.communicate(timeout=10)

    def key_file(self, folder: Path) -> Path:
        """A file with its key, for `--backend-key-file`."""
        path = folder / "key"
        path.write_text(KEY + "\n")
        return path

    def connections(self) -> int:
        """Calls that are connected to it now."""
        found = psutil.Process(self._process.pid).net_connections("tcp")
        return sum(connection.status == "ESTABLISHED" for connection in found)

    def stop(self) -> None:
        if self._process.poll() is None:
            self.kill(signal.SIGCONT)
            self.kill()


def backend_options(url: str, key_file: Path, vad: bool = False) -> list[str]:
    options = ["--backend", url, "--backend-key-file", str(key_file)]
    return [*options, *(["--backend-vad"] if vad else [])]
