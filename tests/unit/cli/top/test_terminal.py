"""`top` keeps on looking when there is nothing to see, and its pictures hold what it shows."""

import asyncio
from pathlib import Path

import pytest
from rich.console import Console, Group

from tests.support.looks import sample, session
from voicerelay.cli.errors import NotRunning
from voicerelay.cli.top import terminal
from voicerelay.cli.top.sample import Sample
from voicerelay.cli.top.snapshot import snapshot
from voicerelay.cli.top.state import State
from voicerelay.cli.top.terminal import Top


class Looks:
    """Gives these looks one after the other; None: there is no instance."""

    def __init__(self, *looks: Sample | None) -> None:
        self._looks = list(looks)

    async def take(self) -> Sample:
        found = self._looks.pop(0)
        if found is None:
            raise NotRunning("no instance")
        return found


def top_of(monkeypatch: pytest.MonkeyPatch, *looks: Sample | None) -> Top:
    sampler = Looks(*looks)
    monkeypatch.setattr(terminal, "Sampler", lambda _run_dir: sampler)
    return Top(Path("x"), Console(width=80, height=24), State())


def text_of(group: Group) -> str:
    return "\n".join(str(line) for line in group.renderables)


def test_an_instance_that_goes_away_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    top = top_of(monkeypatch, sample(1.0), None, sample(9.0), sample(10.0))
    seen = []

    for _ in range(4):
        asyncio.run(top.look())
        seen.append(text_of(top.lines()))

    assert ["gone" in text for text in seen] == [False, True, False, False]
    assert "voicerelay 1.2.3" in seen[1]  # what was seen last stays
    assert "every 1 s" in seen[3]


def test_without_an_instance_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    top = top_of(monkeypatch, None)

    asyncio.run(top.look())

    assert "waiting for it" in text_of(top.lines())


def test_one_print_has_every_call(capsys: pytest.CaptureFixture[str]) -> None:
    calls = [session(n) for n in range(200)]

    terminal.show(snapshot(sample(2.0, sessions=calls), sample(1.0)))

    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("000") for line in lines) == 200
    assert lines[-1].strip()
