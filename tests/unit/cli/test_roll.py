"""A roll, step by step: new beside old, switch, old ones out, the rest one by one; a failure changes nothing."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicerelay.cli.config import Config
from voicerelay.cli.errors import UserError
from voicerelay.cli.roll import free_slots, reload, transceivers


class Fleet:
    """Notes what it is told; `fails` names what does not start or come back."""

    def __init__(self, config: Config, slots: int, fails: str = "") -> None:
        self.config = config
        self.slots = slots
        self.staying = list(range(config.transceivers))
        self.retiring: list[int] = []
        self.steps: list[str] = []
        self.fails = fails

    async def start_held(self, slots: Iterable[int], config: Config) -> None:
        if self.fails == "start":
            raise UserError("transceiver 3: the reason")
        self.steps.append(f"start {list(slots)} {config.app}")

    def open(self, slots: Iterable[int]) -> None:
        self.steps.append(f"open {list(slots)}")

    def retire(self, slots: Iterable[int], deadline_s: int) -> None:
        self.steps.append(f"retire {list(slots)} {deadline_s}")

    async def replace_relay(self, index: int) -> str:
        self.steps.append(f"relay {index}")
        return "the reason" if self.fails == f"relay {index}" else ""

    async def replace_control(self) -> str:
        self.steps.append("control")
        return "the reason" if self.fails == "control" else ""

    async def replace_admin(self) -> str:
        self.steps.append("admin")
        return "the reason" if self.fails == "admin" else ""


def rolled(fleet: Fleet, config: Config, control: bool = False) -> list[int]:
    return asyncio.run(reload(fleet, config, 60, lambda text: None, control))


def test_new_ones_start_before_old_ones_drain_and_relays_follow_one_by_one(config: Config) -> None:
    fleet = Fleet(config, 9)
    changed = replace(config, app="new:app")

    retiring = rolled(fleet, changed)

    assert fleet.steps == [
        "start [3, 4, 5] new:app",
        "open [3, 4, 5]",
        "retire [0, 1, 2] 60",
        "relay 0",
        "relay 1",
        "admin",
    ]
    assert retiring == [0, 1, 2]
    assert fleet.config == changed


def test_control_is_replaced_when_it_is_asked_for(config: Config) -> None:
    fleet = Fleet(config, 9)

    rolled(fleet, config, control=True)

    assert fleet.steps[-4:] == ["control", "relay 0", "relay 1", "admin"]


def test_when_a_new_one_does_not_start_nothing_else_is_done(config: Config) -> None:
    fleet = Fleet(config, 9, fails="start")

    with pytest.raises(UserError, match="transceiver 3: the reason"):
        rolled(fleet, replace(config, app="broken:app"))

    assert fleet.steps == []
    assert fleet.config == config


@pytest.mark.parametrize(("fails", "last"), [("control", "control"), ("relay 0", "relay 0")])
def test_one_that_does_not_come_back_stops_the_roll(config: Config, fails: str, last: str) -> None:
    fleet = Fleet(config, 9, fails=fails)

    with pytest.raises(UserError, match=f"{fails} was replaced and does not come back: the reason"):
        rolled(fleet, config, control=True)

    assert fleet.steps[-1] == last


def test_without_free_slots_nothing_is_done_and_who_drains_is_named(config: Config) -> None:
    fleet = Fleet(config, 7)
    fleet.retiring = [3, 5]

    with pytest.raises(UserError, match="voicerelay drain 3 5 --deadline 0"):
        rolled(fleet, config)

    assert fleet.steps == []


@given(st.sets(st.integers(0, 15)), st.sets(st.integers(0, 15)), st.integers(1, 16))
def test_free_slots_are_the_lowest_that_nobody_has(
    staying: set[int], retiring: set[int], wanted: int
) -> None:
    free = [slot for slot in range(16) if slot not in staying | retiring]

    try:
        found = free_slots(16, sorted(staying), sorted(retiring), wanted)
    except UserError:
        assert len(free) < wanted
    else:
        assert found == free[:wanted]


def test_transceivers_are_named_for_a_person() -> None:
    assert transceivers([2]) == "transceiver 2"
    assert transceivers([0, 1]) == "transceivers 0, 1"
