"""When a call's set-up came how far, so that a slow one shows where it was slow. No clock."""

from enum import Enum


class Milestone(Enum):
    """In the order of a set-up."""

    OFFERED = "offered"
    ANSWERED = "answered"
    CHECKED = "checked"  # the first authenticated check took effect
    CONNECTED = "connected"  # DTLS is up
    HEARD = "heard"  # the first authentic RTP packet


PHASES = {
    "answer": (Milestone.OFFERED, Milestone.ANSWERED),
    "ice": (Milestone.ANSWERED, Milestone.CHECKED),
    "dtls": (Milestone.CHECKED, Milestone.CONNECTED),
    "media": (Milestone.CONNECTED, Milestone.HEARD),
    "total": (Milestone.OFFERED, Milestone.CONNECTED),
}


class Milestones:
    """Of one call, as monotonic seconds; what comes again (another offer, a check) changes nothing."""

    __slots__ = ("_at", "_told")

    def __init__(self, offered_at: float) -> None:
        self._at = {Milestone.OFFERED: offered_at}
        self._told: set[str] = set()

    def reach(self, milestone: Milestone, at: float) -> None:
        self._at.setdefault(milestone, at)

    def age_s(self, now: float) -> float:
        return now - self._at[Milestone.OFFERED]

    def phases(self) -> dict[str, float]:
        """Seconds of each phase that has ended."""
        at = self._at
        return {
            phase: max(0.0, at[end] - at[start])
            for phase, (start, end) in PHASES.items()
            if start in at and end in at
        }

    def news(self) -> dict[str, float]:
        """The phases that have ended since this was asked last."""
        if len(self._told) == len(PHASES):
            return {}
        new = {phase: s for phase, s in self.phases().items() if phase not in self._told}
        self._told.update(new)
        return new
