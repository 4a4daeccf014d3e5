"""The shapes of load: who begins when, never faster than the rate, always the same for a seed."""

import pytest

from voicerelay.cli.loadtest import scenario
from voicerelay.cli.loadtest.scenario import (
    MAX_CALLS_IN_ALL,
    SCENARIOS,
    SPIKE_S,
    PlannedCall,
    plan_calls,
)


def at_once(calls: list[PlannedCall], moment: float) -> int:
    return sum(call.begin_s <= moment < call.end_s for call in calls)


@pytest.mark.parametrize("shape", SCENARIOS)
def test_a_plan_is_the_seeds_alone_and_within_the_duration(shape: str) -> None:
    one, same = (plan_calls(shape, 20, 30, 10, seed=5) for _ in range(2))

    assert one == same
    assert [call.number for call in one] == list(range(len(one)))
    assert all(0 <= call.begin_s <= call.end_s <= 30 for call in one)
    assert one == sorted(one, key=lambda call: call.begin_s)


def test_steady_begins_at_the_rate_and_stays() -> None:
    calls = plan_calls("steady", 20, 30, 10, seed=1)

    assert [call.begin_s for call in calls] == [n / 10 for n in range(20)]
    assert {call.end_s for call in calls} == {30}


def test_a_ramp_grows_evenly_to_all_calls() -> None:
    calls = plan_calls("ramp", 30, 40, 100, seed=1)

    assert [at_once(calls, moment) for moment in (5, 15, 31)] == [6, 16, 30]


def test_a_ramp_is_never_steeper_than_the_rate() -> None:
    calls = plan_calls("ramp", 40, 10, 5, seed=1)

    assert [call.begin_s for call in calls] == pytest.approx([n / 5 for n in range(40)])


def test_churn_replaces_calls_and_keeps_their_number() -> None:
    calls = plan_calls("churn", 20, 60, 20, seed=1)

    assert len(calls) > 60
    assert all(18 <= at_once(calls, moment) <= 20 for moment in range(2, 60))


def test_a_spike_doubles_the_calls_for_a_while() -> None:
    calls = plan_calls("spike", 20, 40, 20, seed=1)

    assert [at_once(calls, moment) for moment in (10, 16 + SPIKE_S, 31)] == [10, 20, 10]


def test_there_is_an_end_to_churn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_CALLS_IN_ALL == 100_000
    monkeypatch.setattr(scenario, "MAX_CALLS_IN_ALL", 30)

    assert len(plan_calls("churn", 20, 60, 20, seed=1)) == 30
