"""One line of JSON for each call that has ended, written beside the event loop, which never waits for a disk."""

import contextlib
import json
import logging
import os
import queue
import socket
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from voicerelay.transceiver.figures import vitals
from voicerelay.transceiver.session import LiveSession

MAX_WAITING: Final = 4096  # records; then new ones are dropped
CLOSE_TIMEOUT_S: Final = 2.0
LOOK_S: Final = 1.0  # whether the file was rotated away, at most so often
FILE_MODE: Final = 0o640
JOURNAL_SOCKET: Final = Path("/run/systemd/journal/socket")
JOURNAL, STANDARD_OUTPUT = "journal", "-"
IDENTIFIER: Final = "voicerelay-calls"

log = logging.getLogger("voicerelay.records")


class RecordsError(Exception):
    """Records cannot be written there; the message says why."""


class CallRecords:
    """`target`: a path, "journal" or "-". Raises RecordsError."""

    def __init__(self, target: str, journal: Path = JOURNAL_SOCKET) -> None:
        self.written = 0
        self.dropped = 0  # a full queue, or a disk
        self._waiting: queue.Queue[bytes | None] = queue.Queue(MAX_WAITING)
        self._out = _opened(target, journal)
        self._thread = threading.Thread(target=self._write_all, name="call-records", daemon=True)
        self._failing = False
        self._thread.start()

    def put(self, record: dict[str, Any]) -> None:
        """Hand over a record; never blocks."""
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        try:
            self._waiting.put_nowait(line)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what waits, for a moment."""
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=CLOSE_TIMEOUT_S)
            self._thread.join(CLOSE_TIMEOUT_S)

    def _write_all(self) -> None:
        while (line := self._waiting.get()) is not None:
            try:
                self._out.write(line)
            except OSError as exc:
                self.dropped += 1
                if not self._failing:
                    log.error("call records are lost: %s", exc.strerror)
                self._failing = True
            else:
                self.written += 1
                self._failing = False
        self._out.close()


class _File:
    """Appends; several transceivers may share it. Opened anew when it was moved or removed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = self._open()
        self._looked_at = time.monotonic()

    def write(self, line: bytes) -> None:
        now = time.monotonic()
        if now - self._looked_at > LOOK_S:
            self._looked_at = now
            if self._rotated():
                os.close(self._fd)
                self._fd = -1
        if self._fd < 0:
            self._fd = self._open()
        if os.write(self._fd, line) < len(line):  # the disk is full
            os.write(self._fd, b"\n")

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)

    def _rotated(self) -> bool:
        ours = os.fstat(self._fd)
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return True
        return (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino)


class _StandardOutput:
    def write(self, line: bytes) -> None:
        os.write(1, line)

    def close(self) -> None:
        pass


class _Journal:
    """systemd's native protocol: fields, one a line, in a datagram."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise

    def write(self, line: bytes) -> None:
        fields = f"PRIORITY=6\nSYSLOG_IDENTIFIER={IDENTIFIER}\nMESSAGE=".encode()
        self._socket.send(fields + line)

    def close(self) -> None:
        self._socket.close()


def _opened(target: str, journal: Path) -> _File | _StandardOutput | _Journal:
    try:
        if target == JOURNAL:
            return _Journal(journal)
        return _StandardOutput() if target == STANDARD_OUTPUT else _File(Path(target))
    except OSError as exc:
        raise RecordsError(f"--call-records: {target}: {exc.strerror}") from None


def record_of(
    session: LiveSession, slot: int, agent: str, now: float, wall: float
) -> dict[str, Any]:
    """A call that has ended: how it was, without saying who it was. `wall`: Unix time."""
    seen, stats = vitals(session, now), session.stats()
    kept = ("codec", "contract", "client", "key", "setup_ms", "rtt_ms", "jitter_ms")
    counted = ("packets_in", "packets_out", "bytes_in", "bytes_out", "lost_in", "lost_out")
    return {
        "ended_at": datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds"),
        "call": session.short_id,
        "transceiver": slot,
        "agent": agent,
        "duration_s": seen["age_s"],
        "end_reason": session.end_reason or "the server was stopped",
        **{name: seen[name] for name in (*kept, *counted)},
        "recovered_ms": stats.recovered_ms,
        "concealed_ms": stats.concealed_ms,
        "unread_ms": stats.unread_ms,
        "played_ms": stats.played_ms,
        "interrupted_ms": stats.interrupted_ms,
    }
