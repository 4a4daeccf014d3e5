"""drain, reload, upgrade, stop as a user types them: what is asked, what is shown, how it ends."""

import json
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from voicerelay.cli import status
from voicerelay.cli.commands import Command, parse_command
from voicerelay.cli.main import main
from voicerelay.shm.rundir import supervisor_socket

Messages = list[dict[str, Any]]
Asked = Callable[[Messages, list[str]], tuple[Command, Result]]


@pytest.fixture
def run_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="vrtest-"))
    running = iter([True])  # when it is looked for; then no more
    monkeypatch.setattr(status, "is_running", lambda path: next(running, False))
    monkeypatch.setattr("voicerelay.cli.rolling.is_running", lambda path: next(running, False))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def asked(run_dir: Path) -> Asked:
    """Run a command against a supervisor that says these messages; what it was asked."""

    def ask(messages: Messages, arguments: list[str]) -> tuple[Command, Result]:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(str(supervisor_socket(run_dir)))
        listener.listen()
        commands: list[Command] = []

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                commands.append(parse_command(sock.recv(8192)))
                with suppress(BrokenPipeError):  # who does not wait has left
                    for message in messages:
                        sock.send(json.dumps(message).encode())

        thread = threading.Thread(target=serve)
        thread.start()
        result = CliRunner().invoke(main, [*arguments, "--run-dir", str(run_dir)])
        thread.join()
        listener.close()
        return commands[0], result

    return ask


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["drain"], Command("drain")),
        (["drain", "0", "3", "--deadline", "5"], Command("drain", 5, [0, 3])),
        (["drain", "1", "--undrain"], Command("undrain", None, [1])),
        (["drain", "1", "--cancel"], Command("undrain", None, [1])),
        (["reload"], Command("reload")),
        (["upgrade"], Command("upgrade", python=sys.executable)),
        (["stop"], Command("stop")),
        (["stop", "--drain"], Command("stop", drain=True)),
        (["stop", "--deadline", "9"], Command("stop", 9, drain=True)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_typed_is_what_is_asked(
    asked: Asked, arguments: list[str], command: Command
) -> None:
    found, result = asked([{"done": "done it"}], arguments)

    assert found == command
    assert result.exit_code == 0, result.output
    assert "done it" in result.output


def test_it_is_shown_how_it_goes_on_to_the_end(asked: Asked) -> None:
    _, result = asked([{"say": "one"}, {"switched": True}, {"done": "two"}], ["reload"])

    assert result.output == "one\ntwo\n"


def test_who_does_not_wait_leaves_once_nothing_can_fail(asked: Asked) -> None:
    _, result = asked(
        [{"say": "one"}, {"switched": True}, {"done": "two"}], ["reload", "--no-wait"]
    )

    assert (result.exit_code, result.output) == (0, "one\n")


def test_what_fails_ends_with_the_reason(asked: Asked) -> None:
    _, result = asked([{"say": "one"}, {"error": "transceiver 2: no such module"}], ["reload"])

    assert result.exit_code == 2
    assert "voicerelay: error: transceiver 2: no such module" in result.output


def test_a_supervisor_that_goes_away_is_told(asked: Asked) -> None:
    _, result = asked([{"say": "one"}], ["reload"])

    assert result.exit_code == 2
    assert "has stopped or was upgraded meanwhile" in result.output


def test_a_supervisor_that_does_not_listen_yet_is_told(run_dir: Path) -> None:
    result = CliRunner().invoke(main, ["reload", "--run-dir", str(run_dir)])

    assert result.exit_code == 2
    assert "takes no commands" in result.output
