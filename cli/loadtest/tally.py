"""What one worker process counts, and how the counts of several are put together. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from voicerelay.cli.loadtest.histogram import Histogram

PHASES = ("signalling", "ice", "dtls", "setup", "first_media")


@dataclass(slots=True)
class SetupTimes:
    """Seconds of each phase; None where it was not reached. setup: all until media may flow."""

    signalling: float | None = None
    ice: float | None = None
    dtls: float | None = None
    setup: float | None = None
    first_media: float | None = None  # from there to the server's first packet of voice


@dataclass(slots=True)
class Arrivals:
    """Of the server's voice, over all calls."""

    lateness: Histogram = field(default_factory=Histogram)  # behind its schedule
    gaps: Histogram = field(default_factory=Histogram)  # between packets, without meant silence
    frames: int = 0
    late: int = 0
    duplicates: int = 0
    reordered: int = 0


@dataclass(slots=True)
class Tally:
    """Datagrams count all there is; of voice, `voice_sent` without what the impairment lost."""

    asked: int = 0
    connected: int = 0
    up_most: int = 0
    ended: int = 0  # as planned, having been up
    sent: int = 0
    received: int = 0
    send_failures: int = 0
    voice_sent: int = 0
    lost_out: int = 0  # by the impairment
    lost_in: int = 0
    expected: int = 0  # voice packets of the server, by their numbers
    verified: int = 0
    not_authentic: int = 0
    rebinds: int = 0
    marks_missed: int = 0
    ticks_left_out: int = 0
    call_s: float = 0.0  # calls by seconds that they were up
    cpu_s: float = 0.0
    phases: dict[str, Histogram] = field(default_factory=lambda: {p: Histogram() for p in PHASES})
    jitter: Histogram = field(default_factory=Histogram)  # of each call at its end
    mouth_to_ear: Histogram = field(default_factory=Histogram)
    lag: Histogram = field(default_factory=Histogram)  # of this process behind its own plan
    begin_lag: Histogram = field(default_factory=Histogram)
    arrivals: Arrivals = field(default_factory=Arrivals)
    failed: Counter[str] = field(default_factory=Counter)  # by reason: did not come about
    dropped: Counter[str] = field(default_factory=Counter)  # by reason: had been up
    goodbyes_failed: Counter[str] = field(default_factory=Counter)

    def take_times(self, times: SetupTimes) -> None:
        """Of a call that has ended, or has not come about."""
        for phase in PHASES:
            seconds = getattr(times, phase)
            if seconds is not None:
                self.phases[phase].add(seconds)


def to_json(tally: Any) -> dict[str, Any]:
    """Of a Tally, or of the records in it."""
    return {one.name: _told(getattr(tally, one.name)) for one in fields(tally)}


def merged(parts: Iterable[Mapping[str, Any]]) -> Tally:
    """The sum of what several workers told by `to_json`."""
    whole = Tally()
    for part in parts:
        _add(whole, part)
    return whole


def _told(value: Any) -> Any:
    if isinstance(value, Histogram):
        return value.to_json()
    if isinstance(value, Arrivals):
        return to_json(value)
    if isinstance(value, dict):
        return {name: _told(one) for name, one in value.items()}
    return value


def _add(whole: Any, part: Mapping[str, Any]) -> None:
    for name, told in part.items():
        value = getattr(whole, name)
        if isinstance(value, Histogram):
            value.merge(Histogram.from_json(told))
        elif isinstance(value, Arrivals):
            _add(value, told)
        elif isinstance(value, Counter):
            value.update(told)
        elif isinstance(value, dict):
            for phase, histogram in told.items():
                value[phase].merge(Histogram.from_json(histogram))
        else:
            setattr(whole, name, value + told)
