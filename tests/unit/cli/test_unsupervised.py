"""drain and its like where systemd keeps the processes: who is asked, what is shown, what is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from click.testing import CliRunner, Result

from voicerelay.cli import figures, status, unsupervised
from voicerelay.cli.main import main
from voicerelay.shm.rundir import INSTANCE_FILE

Json = dict[str, Any]
Asked = list[tuple[str, int, int | None]]
DEADLINE_S = 60
GONE = 7


class Transceivers:
    """Stands for `TransceiverFigures`: two that answer, one that does not."""

    asked: Asked

    def __init__(self, _run_dir: Path) -> None: ...

    def slots(self) -> list[int]:
        return [0, 1, GONE]

    async def drain(self, slot: int, deadline_s: int | None) -> Json | None:
        self.asked.append(("drain", slot, deadline_s))
        longest_s = DEADLINE_S if deadline_s is None else deadline_s
        return None if slot == GONE else {"slot": slot, "sessions": 1, "deadline_s": longest_s}

    async def undrain(self, slot: int) -> Json | None:
        self.asked.append(("undrain", slot, None))
        return None if slot == GONE else {"slot": slot, "sessions": 1}


class Looks:
    """Stands for `StatusReader`: calls of transceivers 0 and 1 at each look; the deadline ends the last."""

    def __init__(self, _run_dir: Path) -> None:
        self._calls = [(2, 2), (2, 1), (1, 0), (0, 0)]

    def read(self) -> Json:
        calls = self._calls.pop(0)
        ended = 0 if sum(calls) else 1
        return {
            "transceivers": [
                {"slot": slot, "sessions": n, "draining": 1, "stragglers_ended": ended}
                for slot, n in enumerate(calls)
            ]
        }


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    Transceivers.asked = []
    monkeypatch.setattr(figures, "TransceiverFigures", Transceivers)
    monkeypatch.setattr(unsupervised, "StatusReader", Looks)
    monkeypatch.setattr(unsupervised, "LOOK_S", 0)
    monkeypatch.setattr(status, "is_running", lambda path: True)
    return Transceivers.asked


@pytest.fixture
def run_dir() -> Iterator[Path]:
    with TemporaryDirectory(prefix="vr-") as folder:
        (Path(folder) / INSTANCE_FILE).write_text(json.dumps({"manager": unsupervised.SYSTEMD}))
        yield Path(folder)


def typed(run_dir: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--run-dir", str(run_dir)])


def test_all_transceivers_are_drained_until_the_last_call_ends(asked: Asked, run_dir: Path) -> None:
    result = typed(run_dir, "drain")

    assert asked == [("drain", 0, None), ("drain", 1, None), ("drain", GONE, None)]
    assert result.output.splitlines() == [
        f"draining transceivers 0, 1 for at most {DEADLINE_S} s",
        "no call left in transceivers 0, 1; 2 calls were ended by the deadline",
    ]


def test_one_is_drained_and_nobody_waits(asked: Asked, run_dir: Path) -> None:
    result = typed(run_dir, "drain", "1", "--deadline", "5", "--no-wait")

    assert asked == [("drain", 1, 5)]
    assert result.output == "draining transceiver 1 for at most 5 s\n"


def test_a_drain_is_taken_back(asked: Asked, run_dir: Path) -> None:
    result = typed(run_dir, "drain", "0", "--undrain")

    assert asked == [("undrain", 0, None)]
    assert result.output == "new calls go to transceiver 0 again\n"


@pytest.mark.usefixtures("asked")
def test_one_that_does_not_answer_is_named(run_dir: Path) -> None:
    result = typed(run_dir, "drain", str(GONE))

    assert (result.exit_code, "transceiver 7 does not answer" in result.output) == (2, True)


@pytest.mark.usefixtures("asked")
def test_nobody_who_answers_is_an_error(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Transceivers, "slots", lambda self: [])

    result = typed(run_dir, "drain")

    assert (result.exit_code, "no transceiver answers" in result.output) == (2, True)


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("kind", ["reload", "upgrade", "stop"])
def test_what_systemd_does_is_left_to_it(run_dir: Path, kind: str) -> None:
    result = typed(run_dir, kind)

    assert result.exit_code == 2
    assert "systemd keeps this instance; " in result.output
    assert "systemctl" in result.output


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"manager": 1}', "\x00"])
def test_anything_else_has_a_supervisor(tmp_path: Path, text: str) -> None:
    assert not unsupervised.under_systemd(tmp_path)

    (tmp_path / INSTANCE_FILE).write_text(text)

    assert not unsupervised.under_systemd(tmp_path)
