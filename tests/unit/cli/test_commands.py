"""Commands to the supervisor: any bytes are a command or a ValueError; who asks hears how it goes on."""

import asyncio
import contextlib
import json
import shutil
import socket
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicerelay.cli import commands as module
from voicerelay.cli.commands import (
    KINDS,
    MAX_MESSAGE_BYTES,
    MAX_TEXT_CHARACTERS,
    Asker,
    Command,
    Desk,
    parse_command,
)
from voicerelay.cli.errors import UserError
from voicerelay.shm.counters import MAX_TRANSCEIVERS
from voicerelay.shm.order import MAX_DEADLINE_S
from voicerelay.shm.rundir import SOCKET_MODE

PATIENCE_S = 10.0
COMMANDS = st.builds(
    Command,
    st.sampled_from(KINDS),
    st.none() | st.integers(0, MAX_DEADLINE_S),
    st.lists(st.integers(0, MAX_TRANSCEIVERS - 1), max_size=8),
    st.booleans(),
    st.text(max_size=20),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(COMMANDS)
def test_a_command_is_read_as_it_was_given(command: Command) -> None:
    assert parse_command(command.encode()) == command


@given(
    st.binary()
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(
        {"kind": st.sampled_from(KINDS)},
        optional=dict.fromkeys(("deadline_s", "slots", "drain", "python"), JSON),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_bytes_are_a_command_or_a_value_error(data: bytes) -> None:
    try:
        command = parse_command(data)
    except ValueError:
        return
    assert command.kind in KINDS
    assert command.deadline_s is None or 0 <= command.deadline_s <= MAX_DEADLINE_S


@pytest.mark.parametrize(
    "given_",
    [
        {"kind": "finish"},  # the supervisor's own
        {"kind": "drain", "deadline_s": MAX_DEADLINE_S + 1},
        {"kind": "drain", "deadline_s": True},
        {"kind": "drain", "slots": [MAX_TRANSCEIVERS]},
        {"kind": "drain", "slots": [0] * (MAX_TRANSCEIVERS + 1)},
        {"kind": "upgrade", "python": "x" * (MAX_TEXT_CHARACTERS + 1)},
        {"kind": "stop", "force": True},
    ],
    ids=["own", "deadline", "flag", "slot", "slots", "python", "unknown"],
)
def test_what_is_out_of_bounds_is_no_command(given_: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"command|kind"):
        parse_command(json.dumps(given_).encode())


@pytest.fixture
def path() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="vrtest-"))
    yield directory / "supervisor.sock"
    shutil.rmtree(directory)


Obey = Callable[[Command, Asker], Coroutine[Any, Any, None]]


async def told(path: Path, obey: Obey, data: bytes) -> list[dict[str, Any]]:
    """All that is said to one who sends this."""
    desk = Desk(path, obey)
    loop = asyncio.get_running_loop()
    heard = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as sock:
        sock.connect(str(path))
        with contextlib.suppress(ConnectionError):  # who is not let in is cut off
            await loop.sock_sendall(sock, data)
            async with asyncio.timeout(PATIENCE_S):
                while message := await loop.sock_recv(sock, MAX_MESSAGE_BYTES):
                    heard.append(json.loads(message))
    await desk.close()
    return heard


async def obedient(command: Command, asker: Asker) -> None:
    asker.say(f"doing {command.kind}")
    asker.switched()
    asker.done("done it")


async def helpless(_command: Command, _asker: Asker) -> None:
    raise UserError("it cannot be")


async def mistaken(_command: Command, _asker: Asker) -> None:
    raise LookupError("a mistake of ours")


def test_who_asks_hears_how_it_goes_on(path: Path) -> None:
    heard = asyncio.run(told(path, obedient, Command("reload").encode()))

    assert heard == [{"say": "doing reload"}, {"switched": True}, {"done": "done it"}]


def test_who_asks_for_what_cannot_be_hears_why(path: Path) -> None:
    heard = asyncio.run(told(path, helpless, Command("reload").encode()))

    assert heard == [{"error": "it cannot be"}]


def test_a_mistake_of_ours_is_no_secret_of_the_log(path: Path) -> None:
    heard = asyncio.run(told(path, mistaken, Command("reload").encode()))

    assert "has been logged" in heard[0]["error"]


def test_what_is_no_command_is_not_understood(path: Path) -> None:
    heard = asyncio.run(told(path, obedient, b"GET / HTTP/1.1"))

    assert heard[0]["error"].startswith("not understood")


def test_who_says_nothing_is_let_go(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_DEADLINE_S", 0.0)

    async def scenario() -> bytes:
        desk = Desk(path, obedient)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as sock:
            sock.connect(str(path))
            async with asyncio.timeout(PATIENCE_S):
                said = await asyncio.get_running_loop().sock_recv(sock, MAX_MESSAGE_BYTES)
        await desk.close()
        return said

    assert b"not understood" in asyncio.run(scenario())


def test_strangers_may_not_ask(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given another user than root, and a supervisor of neither
    monkeypatch.setattr(module, "trusted", lambda uid: False)

    heard = asyncio.run(told(path, obedient, Command("stop").encode()))

    assert heard == []


def test_the_socket_is_for_its_user_and_group(path: Path) -> None:
    async def scenario() -> int:
        desk = Desk(path, obedient)
        mode = path.stat().st_mode
        await desk.close()
        return mode & 0o777

    assert asyncio.run(scenario()) == SOCKET_MODE


def test_more_than_so_many_at_once_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ASKERS", 0)

    assert asyncio.run(told(path, obedient, Command("stop").encode())) == []


def test_an_asker_that_does_not_listen_holds_nobody_up() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    asker = Asker(ours)

    for _ in range(10_000):
        asker.say("on and on")

    theirs.close()
    asker.done("and nobody hears")
    asker.close()


def test_an_asker_goes_on_from_its_descriptor() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fd = Asker(ours).fileno()
    again = Asker.of(fd)

    again.done("after all")

    assert json.loads(theirs.recv(MAX_MESSAGE_BYTES)) == {"done": "after all"}
    ours.detach()
    again.close()
    theirs.close()
    assert Asker.of(-1).fileno() == -1
