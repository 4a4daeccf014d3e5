"""sd_notify, sd_listen_fds and the watchdog: what is said, and that nothing odd is believed."""

import array
import asyncio
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicerelay.shm.notify import (
    FIRST_FD,
    MAX_FDS,
    MAX_STATUS_BYTES,
    UNNAMED,
    Managed,
    listen_fds,
    notify_address,
    watchdog_s,
)

PID = 4711
PATIENCE_S = 10.0


class Manager:
    """A service manager's end."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(PATIENCE_S)

    def hears(self) -> str:
        return self.socket.recv(4096).decode()

    def waits(self) -> bool:
        """Whether nothing was said."""
        self.socket.setblocking(False)
        try:
            return not self.socket.recv(4096)
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(PATIENCE_S)


@pytest.fixture
def manager() -> Iterator[Manager]:
    with tempfile.TemporaryDirectory(prefix="vr-") as folder:
        made = Manager(Path(folder))
        yield made
        made.socket.close()


def managed(manager: Manager, **more: str) -> Managed:
    return Managed({"NOTIFY_SOCKET": manager.path, **more}, PID)


def test_descriptors_come_by_name_in_their_order() -> None:
    environ = {"LISTEN_PID": str(PID), "LISTEN_FDS": "4", "LISTEN_FDNAMES": "a:b:a"}

    found = listen_fds(environ, PID)

    assert found == {"a": [FIRST_FD, FIRST_FD + 2], "b": [FIRST_FD + 1], UNNAMED: [FIRST_FD + 3]}
    assert environ == {}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1", "LISTEN_PID": str(PID + 1)},
        {"LISTEN_FDS": "-1", "LISTEN_PID": str(PID)},
        {"LISTEN_FDS": str(MAX_FDS + 1), "LISTEN_PID": str(PID)},
    ],
    ids=["none", "no pid", "another's", "negative", "too many"],
)
def test_other_descriptors_are_not_taken(environ: dict[str, str]) -> None:
    assert listen_fds(environ, PID) == {}


@given(st.text(), st.text(), st.text())
def test_any_variables_are_read(count: str, names: str, pid: str) -> None:
    environ = {"LISTEN_FDS": count, "LISTEN_FDNAMES": names, "LISTEN_PID": pid}

    found = listen_fds(environ, PID)

    assert sum(map(len, found.values())) <= MAX_FDS


@given(st.text(), st.text())
def test_any_patience_is_read(patience: str, pid: str) -> None:
    assert watchdog_s({"WATCHDOG_USEC": patience, "WATCHDOG_PID": pid}, PID) >= 0


def test_a_sign_of_life_is_due_twice_in_the_managers_patience() -> None:
    assert watchdog_s({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(PID)}, PID) == 1.5
    assert watchdog_s({"WATCHDOG_USEC": "3000000"}, PID) == 1.5
    assert watchdog_s({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, PID) == 0
    assert watchdog_s({}, PID) == 0


def test_the_manager_is_at_a_path_or_an_abstract_name() -> None:
    assert notify_address({"NOTIFY_SOCKET": "/run/x"}) == "/run/x"
    assert notify_address({"NOTIFY_SOCKET": "@x"}) == "\0x"
    assert notify_address({"NOTIFY_SOCKET": "x"}) == notify_address({}) == ""


def test_nothing_of_it_is_left_for_what_an_agent_starts() -> None:
    names = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS")
    environ = dict.fromkeys((*names, "LISTEN_FDNAMES"), "1") | {"HOME": "/"}

    Managed(environ, PID)

    assert environ == {"HOME": "/"}


def test_a_service_tells_how_it_is(manager: Manager) -> None:
    service = managed(manager)

    service.ready()
    service.stopping()

    assert [manager.hears(), manager.hears()] == ["READY=1", "STOPPING=1"]
    assert not service.failed


def test_a_failure_is_one_bounded_line(manager: Manager) -> None:
    service = managed(manager)

    service.fail("first\nREADY=1 " + "é" * MAX_STATUS_BYTES)

    said = manager.hears()
    assert said.startswith("STATUS=first READY=1 é")
    assert "\n" not in said
    assert len(said.encode()) <= len("STATUS=") + MAX_STATUS_BYTES
    assert service.failed


def test_descriptors_are_kept_one_a_message_and_forgotten_by_name(manager: Manager) -> None:
    service = managed(manager)
    read, write = os.pipe()

    service.keep("pipe", [write])
    service.forget("pipe")

    space = socket.CMSG_SPACE(array.array("i").itemsize)
    said, ancillary, _, _ = manager.socket.recvmsg(4096, space)
    (kept,) = array.array("i", ancillary[0][2])
    os.write(kept, b"kept")
    assert said == b"FDSTORE=1\nFDNAME=pipe\nFDPOLL=0"
    assert os.read(read, 16) == b"kept"
    assert manager.hears() == "FDSTOREREMOVE=1\nFDNAME=pipe"
    for fd in (read, write, kept):
        os.close(fd)


def test_the_watchdog_is_fed_only_while_the_heart_beats(manager: Manager) -> None:
    service = managed(manager, WATCHDOG_USEC="2000")
    beats = iter([1, 2, 2, 2])
    looks = 0

    async def scenario() -> None:
        looked = asyncio.Event()

        def heartbeat() -> int:
            nonlocal looks
            looks += 1
            if looks == 4:
                looked.set()
            return next(beats, 2)

        service.beats(heartbeat)
        await asyncio.wait_for(looked.wait(), PATIENCE_S)

    asyncio.run(scenario())

    assert [manager.hears(), manager.hears()] == ["WATCHDOG=1"] * 2
    assert manager.waits()


def test_without_a_watchdog_nobody_looks(manager: Manager) -> None:
    managed(manager).beats(lambda: pytest.fail("looked"))

    assert manager.waits()


def test_without_a_manager_all_is_said_in_vain() -> None:
    for environ in ({}, {"NOTIFY_SOCKET": "/nonexistent/notify"}):
        service = Managed(dict(environ), PID)

        service.ready()
        service.keep("x", [0])
