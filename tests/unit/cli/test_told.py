"""What each process is told: the JSON of its command line is read back as it was meant."""

import os
import stat

from voicerelay.cli import told
from voicerelay.cli.config import Config
from voicerelay.cli.place import Place
from voicerelay.control.process import ControlSettings
from voicerelay.relay.process import RelaySettings
from voicerelay.shm.region import MIN_CAPACITY
from voicerelay.transceiver.settings import TransceiverSettings


def test_settings_reach_each_process_as_they_are_meant(config: Config) -> None:
    # given an instance that has its place
    place = Place(config)
    place.take()

    control = ControlSettings.from_json(told.control(config, place, 5))
    relay = RelaySettings.from_json(told.relay(config, 1, 6))
    transceiver = TransceiverSettings.from_json(told.transceiver(config, place, 2, True, 7))

    ports = [os.fstat(fd).st_mode for group in control.sockets for fd in group]
    assert len(ports) == config.relays * len(config.listen)
    assert all(map(stat.S_ISSOCK, ports))
    assert (control.capacity, control.lifeline) == (MIN_CAPACITY, 5)
    assert (relay.index, relay.lifeline, relay.parent) == (1, 6, os.getpid())
    assert (transceiver.slot, transceiver.app, transceiver.max_sessions) == (2, "mine:app", 7)
    assert (transceiver.held, transceiver.parent) == (True, os.getpid())
    assert [tuple(pair) for pair in transceiver.candidates] == place.candidates
    assert {control.run_dir, relay.run_dir, transceiver.run_dir} == {str(config.run_dir)}
    place.release()
