"""One way to log for every process: text, JSON lines or journald's, and not the same line all the time."""

import json
import logging
import os
import re
import sys
import time
import traceback
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

FORMATS = ("auto", "text", "json")
JOURNAL = "journal"
INTERVAL_S = 1.0  # one line for each reason
MAX_REASONS = 256
MAX_REASON_CHARS = 200  # of each part of one; what differs later is the same
FIELDS = ("session", "reason", "about")  # what a caller may give by `extra`
OURS = "voicerelay"
LIBRARIES = ("aiohttp", "aioice", "aiortc", "asyncio", "uvicorn")
# At info aioice tells every candidate, at warning aiortc what peers do wrong.
QUIET = {"aioice": logging.WARNING, "aiortc": logging.ERROR}
_PRIORITIES = ((40, 3), (30, 4), (20, 6), (0, 7))  # of syslog(3), from a level upwards
_IPV4 = r"(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w.])"
_IPV6 = r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}(?:[0-9A-Fa-f]{1,4}|(?:[0-9]{1,3}\.){3}[0-9]{1,3})?(?![\w:])"
_ADDRESS = re.compile(f"{_IPV4}|{_IPV6}")


@dataclass
class _Reason:
    said_at: float
    held: int = 0


class Throttle:
    """Lets one line of each reason through in INTERVAL_S and counts the others.

    Of more than MAX_REASONS the one that spoke longest ago is forgotten; `forgotten`: lines that were
    held back of such.
    """

    def __init__(self) -> None:
        self._reasons: OrderedDict[Hashable, _Reason] = OrderedDict()
        self.forgotten = 0

    def admit(self, reason: Hashable, now: float) -> int | None:
        """How many lines were held back since the last one; None when this one is too."""
        known = self._reasons.get(reason)
        if known is not None and now - known.said_at < INTERVAL_S:
            known.held += 1
            return None
        self._reasons[reason] = _Reason(now)
        self._reasons.move_to_end(reason)
        if len(self._reasons) > MAX_REASONS:
            self.forgotten += self._reasons.popitem(last=False)[1].held
        return known.held if known else 0


class ThrottleFilter(logging.Filter):
    """Throttles our lines and the libraries'; those of the user's own agent are the user's.

    A reason is a logger and a template, with what `extra` gives as `reason` and `about`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._throttle = Throttle()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] not in (OURS, *LIBRARIES):
            return True
        parts = (record.msg, getattr(record, "reason", ""), getattr(record, "about", ""))
        reason = (record.name, *(str(part)[:MAX_REASON_CHARS] for part in parts))
        held = self._throttle.admit(reason, time.monotonic())
        record.held_back = held or 0
        return held is not None


class Lines(logging.Formatter):
    """Writes records of one process as `text`, `json` or `journal`."""

    def __init__(self, process: str, form: str) -> None:
        super().__init__()
        self._process = process
        self._write = {"json": self._json, JOURNAL: self._journal}.get(form, self._text)

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.name.partition(".")[0] in LIBRARIES:
            message = _ADDRESS.sub("(address)", message)
        return self._write(record, message)

    def _text(self, record: logging.LogRecord, message: str) -> str:
        return f"{_time_of(record)} {self._plain(record, message)}"

    def _journal(self, record: logging.LogRecord, message: str) -> str:
        """journald takes `<N>` for the priority, of each line (sd-daemon(3)); it has the time itself."""
        priority = next(number for level, number in _PRIORITIES if record.levelno >= level)
        lines = self._plain(record, message).splitlines() or [""]
        return "\n".join(f"<{priority}>{line}" for line in lines)

    def _plain(self, record: logging.LogRecord, message: str) -> str:
        """Fields that the message tells already are not told again."""
        fields = {key: text for key, text in _fields_of(record).items() if str(text) not in message}
        told = "".join(f" {key}={text}" for key, text in fields.items())
        text = f"{record.levelname} {self._process}: {message}{told}"
        return text + (f"\n{failure}" if (failure := _failure_of(record)) else "")

    def _json(self, record: logging.LogRecord, message: str) -> str:
        line = {
            "time": _time_of(record),
            "level": record.levelname.lower(),
            "process": self._process,
            "message": message,
            **_fields_of(record),
            "logger": record.name,
        }
        if failure := _failure_of(record):
            line["exception"] = failure
        return json.dumps(line, ensure_ascii=False)


def set_up(process: str, level: str, form: str) -> None:
    """Log to stderr from here on. `form`: of FORMATS; `level`: debug, info, warning or error."""
    handler = logging.StreamHandler()
    handler.setFormatter(Lines(process, chosen(form, os.environ, sys.stderr)))
    handler.addFilter(ThrottleFilter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    for name, least in QUIET.items():
        logging.getLogger(name).setLevel(least)


def chosen(form: str, environ: Mapping[str, str], stream: TextIO) -> str:
    """What "auto" means: journald's lines to the journal, text to a terminal, JSON to all else."""
    if form != "auto":
        return form
    try:
        stat = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return "json"
    if environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}":  # systemd.exec(5)
        return JOURNAL
    return "text" if stream.isatty() else "json"


def _time_of(record: logging.LogRecord) -> str:
    """UTC, to the millisecond."""
    when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    return when.replace("+00:00", "Z")


def _fields_of(record: logging.LogRecord) -> dict[str, Any]:
    fields = {key: getattr(record, key) for key in FIELDS if hasattr(record, key)}
    if held := getattr(record, "held_back", 0):
        fields["held_back"] = held
    return fields


def _failure_of(record: logging.LogRecord) -> str:
    """The traceback, if there is one."""
    if not record.exc_info or record.exc_info[1] is None:
        return ""
    return "".join(traceback.format_exception(record.exc_info[1])).rstrip()
