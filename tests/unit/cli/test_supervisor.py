"""The supervisor before and after its processes: takes a place, gives it back, leaves nothing."""

import json
import logging
import os
import signal
import socket
import stat
from dataclasses import replace

import pytest

from tests.system.conftest import steering_unavailable
from voicerelay.cli import network
from voicerelay.cli.commands import Asker, Command
from voicerelay.cli.config import Config
from voicerelay.cli.errors import UserError
from voicerelay.cli.supervisor import Supervisor
from voicerelay.relay import steering
from voicerelay.shm import rundir
from voicerelay.shm.region import MIN_CAPACITY, Region, Sizes, remove_segments


def test_a_prepared_instance_has_its_place_and_its_sockets(config: Config) -> None:
    supervisor = Supervisor(config)

    leftovers = supervisor.prepare()

    described = json.loads((config.run_dir / rundir.INSTANCE_FILE).read_text())
    assert not leftovers
    assert stat.S_IMODE(config.run_dir.stat().st_mode) == rundir.DIRECTORY_MODE
    assert supervisor.hosts == ["127.0.0.1", "::1"]
    assert supervisor.candidates == [("192.0.2.1", config.port), ("::1", config.port)]
    assert (described["pid"], described["port"]) == (os.getpid(), config.port)
    assert not supervisor.steered
    supervisor.release()


def test_a_released_instance_leaves_nothing(config: Config) -> None:
    before = set(os.listdir("/proc/self/fd"))
    supervisor = Supervisor(config)
    supervisor.prepare()

    supervisor.release()

    assert not config.run_dir.parent.exists()
    assert set(os.listdir("/proc/self/fd")) <= before


def test_leftovers_of_a_killed_instance_are_removed(config: Config) -> None:
    config.run_dir.mkdir(parents=True)
    name = rundir.region_name(config.run_dir)
    Region.create(name, bytes(16), Sizes.for_capacity(MIN_CAPACITY)).close()
    rundir.http_socket(config.run_dir, 0).touch()
    supervisor = Supervisor(config)

    leftovers = supervisor.prepare()

    assert leftovers
    assert not rundir.http_socket(config.run_dir, 0).exists()
    assert not remove_segments(name)
    supervisor.release()


def test_a_second_instance_is_refused_and_the_first_goes_on(config: Config) -> None:
    first = Supervisor(config)
    first.prepare()

    with pytest.raises(UserError, match=f"runs already .pid {os.getpid()}"):
        Supervisor(config).prepare()

    assert (config.run_dir / rundir.INSTANCE_FILE).exists()
    first.release()


def test_an_instance_that_cannot_have_its_port_leaves_nothing(config: Config) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))
        taken = replace(config, port=holder.getsockname()[1])

        with pytest.raises(UserError, match="in use"):
            Supervisor(taken).prepare()

    assert not config.run_dir.exists()
    assert set(os.listdir("/proc/self/fd")) <= before


def test_receive_buffers_below_what_is_asked_are_said_once_and_shown(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # given a host that gives less than we ask for
    monkeypatch.setattr(network, "receive_buffer_bytes", lambda sockets: 212_992)
    supervisor = Supervisor(config)

    with caplog.at_level(logging.WARNING, "voicerelay"):
        supervisor.prepare()

    (record,) = caplog.records
    described = json.loads((config.run_dir / rundir.INSTANCE_FILE).read_text())
    assert f"net.core.rmem_max={network.RECEIVE_BUFFER_BYTES}" in record.getMessage()
    assert "212992 of 8388608 bytes" in record.getMessage()
    assert described["receive_buffer_bytes"] == 212_992
    supervisor.release()


def test_what_steering_lacks_is_shown(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering, "OBJECT", config.run_dir / "not there")
    supervisor = Supervisor(replace(config, steering="auto"))

    supervisor.prepare()

    described = json.loads((config.run_dir / rundir.INSTANCE_FILE).read_text())
    assert not supervisor.steered
    assert "install clang" in supervisor.portable_because
    assert (described["plane"], described["unpinned_because"]) == ("portable", "")
    assert described["portable_because"] == supervisor.portable_because
    supervisor.release()


def test_steering_that_must_be_on_and_cannot_leaves_nothing(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(steering, "OBJECT", config.run_dir / "not there")

    with pytest.raises(UserError, match="--steering on: the program was not built"):
        Supervisor(replace(config, steering="on")).prepare()

    assert not config.run_dir.exists()
    assert set(os.listdir("/proc/self/fd")) <= before


def test_a_steered_instance_without_pins_says_why_and_leaves_nothing(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if reason := steering_unavailable():
        pytest.skip(f"kernel steering: {reason}")
    before = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(rundir, "BPFFS", config.run_dir.parents[1])
    supervisor = Supervisor(replace(config, steering="on"))

    with caplog.at_level(logging.INFO, "voicerelay"):
        supervisor.prepare()

    described = json.loads((config.run_dir / rundir.INSTANCE_FILE).read_text())
    assert supervisor.steered
    assert described["unpinned_because"] == f"bpffs is not mounted at {config.run_dir.parents[1]}"
    (line,) = (r.getMessage() for r in caplog.records if "pinned" in r.getMessage())
    assert line == f"kernel steering is not pinned: {described['unpinned_because']}"
    supervisor.release()
    assert set(os.listdir("/proc/self/fd")) <= before


class Desk:
    """Notes what it is given."""

    def __init__(self) -> None:
        self.given: list[Command] = []

    def give(self, command: Command, asker: Asker) -> None:
        assert asker.fileno() == -1
        self.given.append(command)


def signalled(
    config: Config, *numbers: signal.Signals, ready: bool = True, stopping: bool = False
) -> tuple[list[Command], bool]:
    """What signals make a supervisor do, and whether it stops at once."""
    supervisor = Supervisor(config)
    desk = Desk()
    supervisor._has_terminal = False
    supervisor._draining_to_stop = stopping
    if ready:
        supervisor._desk = desk  # type: ignore[assignment]
    for number in numbers:
        supervisor._signalled(number)
    return desk.given, supervisor._stop.is_set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("ready", [True, False])
def test_int_and_term_stop_at_once(config: Config, number: signal.Signals, ready: bool) -> None:
    assert signalled(config, number, ready=ready) == ([], True)


def test_hup_quit_and_usr2_do_what_nginx_users_expect(config: Config) -> None:
    given, stopped = signalled(config, signal.SIGHUP, signal.SIGUSR2, signal.SIGQUIT)

    assert given == [Command("reload"), Command("upgrade"), Command("stop", drain=True)]
    assert not stopped


def test_a_second_quit_hastens(config: Config) -> None:
    assert signalled(config, signal.SIGQUIT, stopping=True) == ([], True)


def test_before_it_is_ready_there_is_nothing_to_reload(config: Config) -> None:
    assert signalled(config, signal.SIGHUP, signal.SIGUSR2, ready=False) == ([], False)
    assert signalled(config, signal.SIGQUIT, ready=False) == ([], True)


def test_who_loses_its_terminal_stops(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor = Supervisor(config)
    supervisor._has_terminal = True
    monkeypatch.setattr(os, "isatty", lambda fd: False)

    supervisor._signalled(signal.SIGHUP)

    assert supervisor._stop.is_set()


def test_one_roll_at_a_time(config: Config) -> None:
    supervisor = Supervisor(config)

    with (
        supervisor._alone("reload"),
        pytest.raises(UserError, match="a reload is under way"),
        supervisor._alone("upgrade"),
    ):
        pass

    with supervisor._alone("upgrade"):
        pass
