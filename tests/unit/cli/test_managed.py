"""Control under a service manager: what it takes over, what it gives to be kept, what it refuses."""

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from voicerelay.cli.config import Config
from voicerelay.cli.errors import UserError
from voicerelay.cli.managed import Inheritance
from voicerelay.cli.units import LOCK
from voicerelay.shm import rundir
from voicerelay.shm.notify import Managed

RELAYS = 2


class Keeper(Managed):
    """Remembers what was given to it, as a manager's file-descriptor store does."""

    def __init__(self, fds: dict[str, list[int]]) -> None:
        super().__init__({}, os.getpid())
        self.fds = fds
        self.kept: dict[str, int] = {}

    def keep(self, name: str, fds: object) -> None:
        assert isinstance(fds, list)
        self.kept[name] = os.dup(fds[0])

    def forget(self, name: str) -> None:
        self.kept.pop(name, None)


def public_sockets(port: int = 0) -> list[socket.socket]:
    """One for each relay, in one group."""
    sockets: list[socket.socket] = []
    for _ in range(RELAYS):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(sockets[0].getsockname() if sockets else ("127.0.0.1", port))
        sockets.append(sock)
    return sockets


def named(sockets: list[socket.socket], role: str = "relay") -> dict[str, list[int]]:
    return {f"{role}-{i}": [os.dup(sock.fileno())] for i, sock in enumerate(sockets)}


@pytest.fixture
def bound() -> Iterator[list[socket.socket]]:
    sockets = public_sockets()
    yield sockets
    for sock in sockets:
        sock.close()


@pytest.fixture
def config(bound: list[socket.socket]) -> Iterator[Config]:
    run_dir = Path(tempfile.mkdtemp(prefix="vr-"))
    yield Config(
        app="voicerelay.echo:app",
        port=bound[0].getsockname()[1],
        listen=(),
        public_ip=(),
        http_host="127.0.0.1",
        http_port=8080,
        relays=RELAYS,
        transceivers=3,
        max_sessions=200,
        capacity=16,
        run_dir=run_dir,
        log_level="info",
    )
    shutil.rmtree(run_dir)


def close(inherited: Inheritance) -> None:
    inherited.release()


def test_control_is_told_of_every_socket(config: Config, bound: list[socket.socket]) -> None:
    inherited = Inheritance(config, Keeper(named(bound)))

    settings = inherited.settings()

    names = [[socket.socket(fileno=os.dup(fd)) for fd in fds] for fds in settings.sockets]
    assert [s.getsockname() for (s,) in names] == [s.getsockname() for s in bound]
    assert (settings.instance, settings.transceiver_sockets, settings.steering) == ("", [], [])
    for (sock,) in names:
        sock.close()
    close(inherited)


def test_the_instance_is_described_for_status(config: Config, bound: list[socket.socket]) -> None:
    inherited = Inheritance(config, Keeper(named(bound)))

    inherited.settings()

    told = json.loads((config.run_dir / rundir.INSTANCE_FILE).read_text())
    assert (told["port"], told["listen"], told["plane"]) == (config.port, ["127.0.0.1"], "portable")
    close(inherited)


def test_the_lock_outlives_control_in_the_managers_hands(
    config: Config, bound: list[socket.socket]
) -> None:
    # given a control that has died
    keeper = Keeper(named(bound))
    close(Inheritance(config, keeper))
    assert not rundir.InstanceLock(config.run_dir).acquire()

    # when its successor is given the lock back
    heir = Inheritance(config, Keeper(named(bound) | {LOCK: [os.dup(keeper.kept[LOCK])]}))

    # then the instance is its own, and nobody's once the manager lets go as well
    assert rundir.InstanceLock(config.run_dir).holder() == str(os.getpid())
    close(heir)
    os.close(keeper.kept[LOCK])
    free = rundir.InstanceLock(config.run_dir)
    assert free.acquire()
    free.release()


def test_a_lock_that_is_gone_from_the_directory_is_made_anew(
    config: Config, bound: list[socket.socket]
) -> None:
    first = Keeper(named(bound))
    close(Inheritance(config, first))
    (config.run_dir / "lock").unlink()

    second = Keeper(named(bound) | {LOCK: [first.kept[LOCK]]})
    inherited = Inheritance(config, second)

    assert not rundir.InstanceLock(config.run_dir).acquire()
    close(inherited)
    os.close(second.kept[LOCK])


def test_an_instance_that_runs_already_is_left_alone(
    config: Config, bound: list[socket.socket]
) -> None:
    other = rundir.InstanceLock(config.run_dir)
    assert other.acquire()

    with pytest.raises(UserError, match="runs already"):
        Inheritance(config, Keeper({}))

    other.release()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"relays": 3}, "sockets for 2 relays"),
        ({"port": 9}, "other sockets than UDP 9"),
        ({"listen": ("192.0.2.1",)}, "no socket for --listen 192.0.2.1"),
        ({"steering": "on"}, "do not fit"),
    ],
    ids=["relays", "port", "listen", "steering"],
)
def test_units_of_another_configuration_are_refused(
    config: Config, bound: list[socket.socket], changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=f"{message}.*systemd install"):
        Inheritance(replace(config, **changes), Keeper(named(bound)))  # type: ignore[arg-type]


def test_sockets_for_other_transceivers_are_refused(
    config: Config, bound: list[socket.socket]
) -> None:
    given = named(bound) | named(bound, "transceiver")

    with pytest.raises(UserError, match="do not fit --transceivers"):
        Inheritance(config, Keeper(given))
