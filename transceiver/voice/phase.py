"""Those who speak in the same moments, as the pacer and the engine see them."""

from typing import Any, Protocol


class Speaker(Protocol):
    """A call that may have something to say."""

    @property
    def short_id(self) -> str:
        """For the log."""

    @property
    def mouth(self) -> Any:
        """What it has to say, where the engine takes it from (voice.h)."""

    def wake(self) -> None:
        """The engine has made room in it for a writer."""

    def encode(self, due: float, load: int) -> bytes | None:
        """The 20 ms that are due at `due`; None when silent, and so no turn any more.

        Empty when there is nothing to send this time. load: Lateness.level.
        """

    def send(self, payload: bytes, due: float) -> None:
        """What `encode` has given, once all that are due at `due` have given theirs."""

    def end(self, reason: str) -> None:
        """Called after one of these has raised."""


class Phase:
    """Speakers, each with the slot of its first frame. `mouths`: the engine's, until they change."""

    __slots__ = ("mouths", "speakers")

    def __init__(self) -> None:
        self.speakers: dict[Speaker, int] = {}
        self.mouths: Any = None

    def add(self, speaker: Speaker, slot: int) -> None:
        self.speakers[speaker] = slot
        self.mouths = None

    def remove(self, speaker: Speaker) -> None:
        del self.speakers[speaker]
        self.mouths = None
