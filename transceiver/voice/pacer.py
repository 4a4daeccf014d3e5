"""The one timer of a process's voices: every speaker has its turn each 20 ms, spread over phases."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from voicerelay.transceiver.voice.engine import Engine
from voicerelay.transceiver.voice.lateness import Lateness
from voicerelay.transceiver.voice.opus import FRAME_S
from voicerelay.transceiver.voice.phase import Phase, Speaker

PHASES: Final = 10
SLOT_S: Final = FRAME_S / PHASES  # whole milliseconds, the resolution of uvloop's timers
MAX_CATCH_UP_FRAMES: Final = 2  # after a stall; a listener's jitter buffer must not grow by more
GIVEN_UP_S: Final = (MAX_CATCH_UP_FRAMES + 1) * FRAME_S  # what lateness such a frame counts with
EARLY_S: Final = 0.001  # a timer of whole milliseconds may come so much too soon
NEVER: Final = math.inf

log = logging.getLogger("voicerelay.pacer")


class Turn(NamedTuple):
    """A phase, and the slots whose frames are to be sent. skipped: frames of all of them that are given up."""

    slots: range
    phase: Phase
    skipped: int


class Schedule:
    """Who is due when. Times are counted in slots of 2 ms, so that nothing drifts."""

    def __init__(self) -> None:
        self._phases = [Phase() for _ in range(PHASES)]
        self._due: list[float] = [NEVER] * PHASES  # the next slot of each phase
        self._phase_of: dict[Speaker, int] = {}

    def __contains__(self, speaker: Speaker) -> bool:
        return speaker in self._phase_of

    def __len__(self) -> int:
        return len(self._phase_of)

    def add(self, speaker: Speaker, now: float) -> None:
        """Give a speaker a turn in the emptiest phase; of several the one that comes first."""
        if speaker in self._phase_of:
            return
        start = math.ceil(now / SLOT_S)
        slot = min(
            range(start, start + PHASES), key=lambda s: len(self._phases[s % PHASES].speakers)
        )
        phase = slot % PHASES
        if not self._phases[phase].speakers:
            self._due[phase] = slot
        self._phases[phase].add(speaker, slot)
        self._phase_of[speaker] = phase

    def remove(self, speaker: Speaker) -> None:
        """No more turns; a speaker that has none may be removed too."""
        phase = self._phase_of.pop(speaker, None)
        if phase is not None:
            self._phases[phase].remove(speaker)
            if not self._phases[phase].speakers:
                self._due[phase] = NEVER

    def next_due(self) -> float:
        """When the next turn is; NEVER when nobody speaks."""
        return min(self._due) * SLOT_S

    def take(self, now: float) -> Turn | None:
        """The turn that has been due the longest, if one is due."""
        due = self.next_due()
        if due > now + EARLY_S:
            return None
        slot = round(due / SLOT_S)
        frames = int((now + EARLY_S - due) / FRAME_S) + 1
        phase, end = self._phases[slot % PHASES], slot + frames * PHASES
        first, skipped = slot, 0
        if frames > MAX_CATCH_UP_FRAMES:
            first = end - MAX_CATCH_UP_FRAMES * PHASES
            begun = phase.speakers.values()
            skipped = sum(max(0, first - max(slot, own)) // PHASES for own in begun)
        self._due[slot % PHASES] = end
        return Turn(range(first, end, PHASES), phase, skipped)

    def sizes(self) -> list[int]:
        """Speakers of each phase."""
        return [len(phase.speakers) for phase in self._phases]


class Pacer:
    """Calls the speakers when they are due, in one loop; without speakers no timer runs."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float] = time.monotonic,
        engine: Engine | None = None,
        sent: Callable[[int, int], None] = lambda sent, failed: None,
    ) -> None:
        # `clock` must be the one behind loop.time(): asyncio's and uvloop's are CLOCK_MONOTONIC.
        self._loop = loop
        self._clock = clock
        self._engine = engine or Engine()
        self._sent = sent  # told how many packets the engine has sent, and how many it could not
        self._schedule = Schedule()
        self._lateness = Lateness(clock())
        self._timer: asyncio.TimerHandle | None = None
        self._armed = NEVER
        self.frames = 0  # turns given
        self.frames_skipped = 0  # turns lost to a stalled loop

    def __len__(self) -> int:
        return len(self._schedule)

    def add(self, speaker: Speaker) -> None:
        """To be called after each write: gives a speaker its turns, if it has none."""
        if speaker not in self._schedule:
            self._schedule.add(speaker, self._clock())
            self._arm()

    def remove(self, speaker: Speaker) -> None:
        """The call has ended."""
        self._schedule.remove(speaker)
        self._arm()

    @property
    def load_level(self) -> int:
        """0 to MAX_LOAD_LEVEL: how cheaply to encode."""
        self._lateness.advance(self._clock())
        return self._lateness.level

    @property
    def overloaded(self) -> bool:
        """Whether frames come so late that no new call should be taken."""
        self._lateness.advance(self._clock())
        return self._lateness.overloaded

    def lateness(self, share: float) -> float:
        """Percentile of the last seconds, in s: 0.99 for p99; 0.0 when nobody spoke."""
        self._lateness.advance(self._clock())
        return self._lateness.percentile(share)

    def lateness_counts(self) -> list[int]:
        """Frames since the process began, by how late they left: lateness.BUCKETS of BUCKET_S each."""
        self._lateness.advance(self._clock())
        return self._lateness.counts

    def _arm(self) -> None:
        """One timer, for the earliest turn."""
        due = self._schedule.next_due()
        if due == self._armed:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._armed = due
        # Absolute: uvloop's delays count from the beginning of the loop's round.
        self._timer = None if due == NEVER else self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        """One turn; the loop reads its sockets before the next, however late it is."""
        self._timer, self._armed = None, NEVER
        now = self._clock()
        self._lateness.advance(now)
        turn = self._schedule.take(now)
        try:
            if turn is not None:
                self._run(turn)
        finally:
            self._arm()

    def _run(self, turn: Turn) -> None:
        lateness, clock, level = self._lateness, self._clock, self._lateness.level
        engine = self._engine
        if turn.skipped:
            self.frames_skipped += turn.skipped
            lateness.add(GIVEN_UP_S, turn.skipped)
        for slot in turn.slots:
            due = slot * SLOT_S
            # First the codec for all, then the rest for all: each finds its caches warm.
            said, left = engine.turn(turn.phase, slot, due, level)
            encoded = self._encode(turn.phase.speakers, left, slot, due, level) if left else ()
            if said:
                self._sent(*engine.speak())
            for speaker, payload in encoded:
                try:
                    if payload:
                        speaker.send(payload, due)
                except Exception as exc:  # noqa: BLE001 - one call's fault ends that call alone
                    self._failed(speaker, exc)
            said += len(encoded)
            if said:
                self.frames += said
                lateness.add(max(0.0, clock() - due), said)

    def _encode(
        self,
        speakers: dict[Speaker, int],
        left: Sequence[Speaker],
        slot: int,
        due: float,
        level: int,
    ) -> list[tuple[Speaker, bytes]]:
        encoded = []
        for speaker in left:
            first = speakers.get(speaker)
            if first is None or slot < first:
                continue
            try:
                payload = speaker.encode(due, level)
            except Exception as exc:  # noqa: BLE001 - one call's fault ends that call alone
                self._failed(speaker, exc)
                continue
            if payload is None:
                self._schedule.remove(speaker)
            else:
                encoded.append((speaker, payload))
        return encoded

    def _failed(self, speaker: Speaker, exc: Exception) -> None:
        self._schedule.remove(speaker)
        log.error("session %s: its voice failed", speaker.short_id, exc_info=exc)
        try:
            speaker.end("its voice failed")
        except Exception:
            log.exception("session %s: ending it", speaker.short_id)
