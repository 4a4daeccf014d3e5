"""Reads the API keys; light to import, so that the supervisor stays small."""

import logging
import math
from pathlib import Path

from voicerelay.transceiver.signalling.keys import MAX_KEY_FILE_BYTES, KeyFileError, Keys

KEY_FILE_LOOK_S = 1.0

log = logging.getLogger("voicerelay.http")


def read_keys(path: str) -> Keys:
    """The keys of a file. Raises KeyFileError."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as exc:
        raise KeyFileError(f"cannot be read: {exc.strerror}") from None
    if len(data) > MAX_KEY_FILE_BYTES:
        raise KeyFileError(f"has more than {MAX_KEY_FILE_BYTES} bytes")
    try:
        return Keys.parse(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise KeyFileError("is not text (UTF-8)") from None


class KeyFile:
    """The keys of a file that may change: a key that is taken out is void within a second."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._looked_at = -math.inf
        self._state: tuple[int, int, int] | None = None
        self.keys = read_keys(path)

    def current(self, now: float) -> Keys:
        """The keys now; those before, when the file cannot be used."""
        if now - self._looked_at < KEY_FILE_LOOK_S:
            return self.keys
        self._looked_at = now
        try:
            found = Path(self._path).stat()
            state = found.st_mtime_ns, found.st_size, found.st_ino
            if state != self._state:
                self.keys = read_keys(self._path)
                self._state = state
        except (OSError, KeyFileError) as exc:
            log.warning("API keys stay as they were: %s: %s", self._path, exc)
        return self.keys
