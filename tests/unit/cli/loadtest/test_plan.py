"""A plan is bounded: each limit is told by its option; it comes through JSON as it was."""

from typing import Any

import pytest

from voicerelay.cli.errors import UserError
from voicerelay.cli.loadtest.impairment import MAX_JITTER_S, MAX_LOSS, MIN_REBIND_S, Impairment
from voicerelay.cli.loadtest.plan import (
    MAX_CALLS,
    MAX_DURATION_S,
    MAX_MARKED_CALLS,
    MAX_RATE,
    MAX_SOURCES,
    MAX_WORKERS,
    Plan,
)


def plan(**given: Any) -> Plan:
    settings: dict[str, Any] = {
        "url": "http://127.0.0.1:8080/whip", "contract": "whip", "calls": 10, "duration_s": 10.0,
        "scenario": "steady", "rate": 20.0, "talk": 0.5, "seed": 1, "workers": 1, "sources": 4,
        "marked": 2,
    }  # fmt: skip
    return Plan(**settings | given)


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({"calls": 0}, "--calls"), ({"calls": MAX_CALLS + 1}, "--calls"),
        ({"duration_s": 0.5}, "--duration"), ({"duration_s": MAX_DURATION_S + 1}, "--duration"),
        ({"duration_s": float("nan")}, "--duration"),
        ({"rate": 0.0}, "--rate"), ({"rate": MAX_RATE + 1}, "--rate"),
        ({"talk": 1.1}, "--talk"), ({"talk": -0.1}, "--talk"),
        ({"workers": 0}, "--workers"), ({"workers": MAX_WORKERS + 1}, "--workers"),
        ({"sources": 0}, "--sources"), ({"sources": MAX_SOURCES + 1}, "--sources"),
        ({"marked": MAX_MARKED_CALLS + 1}, "--marked"),
        ({"impairment": Impairment(loss=MAX_LOSS + 0.01)}, "--loss"),
        ({"impairment": Impairment(jitter_s=MAX_JITTER_S + 0.1)}, "--jitter-ms"),
        ({"impairment": Impairment(rebind_s=MIN_REBIND_S / 2)}, "--rebind-every"),
        ({"calls": 1000, "rate": 10.0}, "--duration"),
        ({"contract": "sip"}, "--contract"), ({"scenario": "flood"}, "--scenario"),
    ],
)  # fmt: skip
def test_what_is_out_of_bounds_is_told_by_its_option(given: dict[str, Any], option: str) -> None:
    with pytest.raises(UserError, match=option):
        plan(**given)


def test_it_comes_through_json_as_it_was() -> None:
    one = plan(impairment=Impairment(0.1, 0.02, 5.0))

    assert Plan.from_json(one.to_json()) == one


def test_all_workers_know_the_same_calls() -> None:
    one = plan(scenario="churn", workers=2)

    assert one.planned() == Plan.from_json(one.to_json()).planned()
    assert len(one.planned()) > 10
