"""The place of an instance, handed on: the same sockets, lock and identity in the next supervisor."""

import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.system.conftest import steering_unavailable
from voicerelay.cli.config import Config
from voicerelay.cli.place import SLOTS_PER_TRANSCEIVER, Place, fds_of
from voicerelay.cli.succession import Estate
from voicerelay.shm import rundir


def bequeath(place: Place) -> Estate:
    return place.bequeath(fixed={}, asker=-1, deadline_s=0, stragglers=0, children=[], posts=[])


def duplicated(estate: Estate) -> Estate:
    """With descriptors of its own, as exec leaves only one owner for each."""
    return replace(
        estate,
        sockets=[[os.dup(fd) for fd in group] for group in estate.sockets],
        transceiver_sockets=[[os.dup(fd) for fd in g] for g in estate.transceiver_sockets],
        steering=[{name: os.dup(fd) for name, fd in g.items()} for g in estate.steering],
        lock=os.dup(estate.lock),
    )


def test_a_place_that_is_handed_on_is_the_same(config: Config) -> None:
    first = Place(config)
    first.take()

    second = Place.inherit(config, duplicated(bequeath(first)))

    assert second.instance == first.instance
    assert (second.hosts, second.candidates) == (first.hosts, first.candidates)
    names = [[[sock.getsockname() for sock in g] for g in p.sockets] for p in (first, second)]
    assert names[0] == names[1]
    assert second.steering.portable_because == first.steering.portable_because
    first.release()
    second.release()


def test_a_lock_that_is_handed_on_is_held(config: Config) -> None:
    first = Place(config)
    first.take()
    second = Place.inherit(config, duplicated(bequeath(first)))

    first.lock.release()

    assert not rundir.InstanceLock(config.run_dir).acquire()
    second.release()
    first.release()


def test_steered_transceivers_have_sockets_for_their_successors(config: Config) -> None:
    if reason := steering_unavailable():
        pytest.skip(f"kernel steering: {reason}")
    place = Place(replace(config, steering="on"))
    place.take()

    estate = bequeath(place)

    assert len(place.steering.sockets) == SLOTS_PER_TRANSCEIVER * config.transceivers
    assert estate.steering == [asdict(group) for group in place.steering.groups]
    assert estate.transceiver_sockets == fds_of(place.steering.sockets)
    place.release()


def test_the_instance_file_is_never_half_written(config: Config) -> None:
    place = Place(config)
    place.take()
    path: Path = config.run_dir / rundir.INSTANCE_FILE
    place.describe(config)
    before = path.stat().st_ino

    place.describe(replace(config, app="other:app"))

    assert path.stat().st_ino != before
    assert sorted(p.name for p in config.run_dir.iterdir()) == [rundir.INSTANCE_FILE, "lock"]
    place.release()
