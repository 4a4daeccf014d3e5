"""Counts of workers: through JSON and back, their sum is that of one worker that did it all."""

import json

from voicerelay.cli.loadtest.tally import PHASES, SetupTimes, Tally, merged, to_json


def some(scale: int) -> Tally:
    tally = Tally(asked=scale, sent=10 * scale, call_s=0.5 * scale)
    tally.failed["HTTP 503"] += scale
    tally.arrivals.frames += 7 * scale
    tally.arrivals.lateness.add(0.001 * scale)
    tally.mouth_to_ear.add(0.05)
    tally.take_times(SetupTimes(signalling=0.01, setup=0.02))
    return tally


def test_nothing_is_lost_on_the_way() -> None:
    tally = some(3)

    again = merged([json.loads(json.dumps(to_json(tally)))])

    assert to_json(again) == to_json(tally)


def test_parts_are_added_up() -> None:
    whole = merged([to_json(some(1)), to_json(some(2))])

    assert (whole.asked, whole.sent, whole.call_s) == (3, 30, 1.5)
    assert whole.failed == {"HTTP 503": 3}
    assert whole.arrivals.frames == 21
    assert len(whole.arrivals.lateness) == len(whole.mouth_to_ear) == 2


def test_a_phase_that_was_not_reached_is_not_counted() -> None:
    phases = some(1).phases

    assert {phase: len(phases[phase]) for phase in PHASES if len(phases[phase])} == {
        "signalling": 1,
        "setup": 1,
    }
