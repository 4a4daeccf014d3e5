"""voicerelay dev: which files it looks at, and what it takes for a change."""

import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from voicerelay.cli import dev
from voicerelay.cli.dev import changed, directory_of, snapshot
from voicerelay.cli.main import main


def test_a_file_that_is_new_gone_or_changed_is_a_change() -> None:
    before = {"/a/same.py": 1, "/a/touched.py": 1, "/a/gone.py": 1}

    after = {"/a/same.py": 1, "/a/touched.py": 2, "/a/new.py": 1}

    assert changed(before, after) == ["gone.py", "new.py", "touched.py"]
    assert changed(before, before) == []


def test_code_is_looked_at_and_environments_are_not(tmp_path: Path) -> None:
    for name in ("agent.py", "below/more.py", "notes.txt", ".hidden/a.py", "__pycache__/a.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "env" / "lib").mkdir(parents=True)
    (tmp_path / "env" / "pyvenv.cfg").touch()
    (tmp_path / "env" / "lib" / "a.py").touch()

    found = snapshot(tmp_path)

    assert {os.path.relpath(path, tmp_path) for path in found} == {"agent.py", "below/more.py"}


def test_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dev, "MAX_FILES", 2)
    for number in range(4):
        (tmp_path / f"{number}.py").touch()

    assert len(snapshot(tmp_path)) == 2


def test_a_package_is_looked_at_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()

    assert directory_of("mine.agent:app", tmp_path) == tmp_path / "mine"
    assert directory_of("agent:app", tmp_path) == tmp_path
    assert directory_of("voicerelay.echo:app", tmp_path) == tmp_path


def test_the_app_is_that_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VOICERELAY_APP", raising=False)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    started: list[list[str]] = []
    monkeypatch.setattr(dev, "serve", lambda command, _: started.append(command))
    (tmp_path / "voicerelay.toml").write_text('app = "mine:app"\npublic-ip = "192.0.2.1"\n')

    # when
    result = CliRunner().invoke(main, ["dev", "--http-port", "8099"])

    # then nothing else of the file counts
    assert "mine:app on http://localhost:8099/" in result.stdout
    (command,) = started
    assert "mine:app" in command
    assert command[-2:] == ["--config", os.devnull]
    assert "127.0.0.1:8099" in command


def test_what_has_ended_is_started_again_by_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a command that ends at once, and a file that changes when that was told
    said: list[str] = []
    monkeypatch.setattr(dev, "LOOK_S", 0.001)
    monkeypatch.setattr("click.echo", said.append)

    def look(_: Path) -> dict[str, int]:
        if len(said) == 3:
            raise KeyboardInterrupt
        return {"/a.py": int(bool(said))}

    monkeypatch.setattr(dev, "snapshot", look)

    # when
    with pytest.raises(KeyboardInterrupt):
        dev.serve([sys.executable, "-c", ""], tmp_path)

    # then
    ended, again, ended_again = said
    assert ended == ended_again == "voicerelay dev: it has ended; a change starts it again"
    assert again == "voicerelay dev: a.py changed, starting again"
