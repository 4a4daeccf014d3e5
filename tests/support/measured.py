"""A test's outcome, made up, for the tests of reports."""

from typing import Any

from voicerelay.cli.loadtest.fleet import Measured
from voicerelay.cli.loadtest.plan import Plan
from voicerelay.cli.loadtest.tally import SetupTimes, Tally
from voicerelay.cli.loadtest.watch import Counted, Sample


def some_plan(**given: Any) -> Plan:
    settings: dict[str, Any] = {
        "url": "http://127.0.0.1:8080/whip", "contract": "whip", "calls": 10, "duration_s": 10.0,
        "scenario": "steady", "rate": 20.0, "talk": 0.5, "seed": 1, "workers": 1, "sources": 4,
        "marked": 2,
    }  # fmt: skip
    return Plan(**settings | given)


def nothing() -> Measured:
    """Not one call came about, and no server was watched."""
    tally = Tally(asked=2)
    tally.failed["HTTP 503 <server_full>"] += 2
    return Measured(some_plan(), 10.0, False, 0, tally, [])


def ten_calls() -> Measured:
    """Ten calls of 8 s each."""
    tally = Tally(asked=10, connected=10, up_most=10, ended=9, sent=4000, received=3990)
    tally.expected, tally.call_s, tally.cpu_s = 4000, 80.0, 0.8
    tally.dropped["ended by the server"] += 1
    for number in range(10):
        tally.take_times(SetupTimes(0.004, 0.006, 0.001, 0.011 + number / 1000, 0.02))
        tally.jitter.add(0.001)
    tally.arrivals.frames, tally.arrivals.late = 3960, 40
    for lateness in (0.0, 0.001, 0.03):
        tally.arrivals.lateness.add(lateness)
        tally.arrivals.gaps.add(0.02 + lateness)
    tally.mouth_to_ear.add(0.03)
    progress = [
        {"at_s": at, "up": 10.0, "asked": 10.0, "failed": 0.0, "dropped": 0.0, "sent": 500 * at,
         "received": 500 * at, "frames": 480 * at, "late": 0.0}
        for at in (0.5, 1.0, 1.5)
    ]  # fmt: skip
    samples = [Sample(0.0, 0.0, 100 << 20, 0), Sample(8.0, 1.6, 110 << 20, 10)]
    counted = Counted(4000, 4000, {"unknown_flow": 3})
    return Measured(some_plan(), 10.0, False, 0, tally, progress, samples, counted)
