"""One look at an instance: what the page is given, and how often transceivers are asked."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.unit.cli.admin.looks import call, look
from voicerelay.cli.admin import snapshot as module
from voicerelay.cli.admin.snapshot import FRESH_S, Looker
from voicerelay.cli.status import StatusReader
from voicerelay.shm import rundir
from voicerelay.shm.region import MIN_CAPACITY, Region, Sizes, remove_segments

DESCRIBED = {"version": "1", "listen": ["127.0.0.1"], "relays": 1, "transceivers": 1}


class Asked:
    """Stands for the transceivers and counts."""

    def __init__(self, _run_dir: Path) -> None:
        self.figures_asked = self.sessions_asked = 0

    async def figures(self) -> dict[int, Any]:
        self.figures_asked += 1
        return {}

    async def sessions(self) -> list[Any]:
        self.sessions_asked += 1
        return [call()]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def looker(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Looker, Asked, Clock]]:
    monkeypatch.setattr(module, "TransceiverFigures", Asked)
    with TemporaryDirectory(prefix="vr-") as folder:
        run_dir, clock = Path(folder), Clock()
        (run_dir / rundir.INSTANCE_FILE).write_text(json.dumps(DESCRIBED))
        name = rundir.region_name(run_dir)
        Region.create(name, bytes(16), Sizes.for_capacity(MIN_CAPACITY)).close()
        made = Looker(run_dir, StatusReader(run_dir), clock)
        asked = made._transceivers
        assert isinstance(asked, Asked)
        yield made, asked, clock
        remove_segments(name)


def test_however_many_look_transceivers_are_asked_once_in_a_while(
    looker: tuple[Looker, Asked, Clock],
) -> None:
    made, asked, clock = looker

    async def run() -> None:
        await asyncio.gather(*(made.look(calls=True) for _ in range(20)))
        assert (asked.figures_asked, asked.sessions_asked) == (1, 1)
        await made.look(calls=False)
        assert asked.figures_asked == 1

        clock.now += FRESH_S
        seen = await made.look(calls=False)

        assert (asked.figures_asked, asked.sessions_asked) == (2, 1)
        assert (seen.at, seen.calls) == (clock.now, [])
        assert (await made.look(calls=True)).calls == [call()]

    asyncio.run(run())


def test_the_page_gets_nothing_that_would_end_a_call() -> None:
    seen = look(calls=[call("abcdef")]).for_page()

    text = json.dumps(seen)
    assert "the-whole-id" not in text
    assert [one["short_id"] for one in seen["calls"]] == ["abcdef"]
    assert seen["dropped"] == {"unknown_flow": 9}
    assert seen["not_ready"] == []


def test_a_transceiver_that_does_not_answer_is_said() -> None:
    seen = look()
    seen.figures.clear()

    assert seen.for_page()["transceivers"][0]["answers"] is False
