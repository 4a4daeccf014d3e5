"""What each process is told when the supervisor starts it: its settings, as the JSON on its command line."""

import json
import os
from dataclasses import asdict, replace

from voicerelay.cli import roles
from voicerelay.cli.config import Config
from voicerelay.cli.place import Place, fds_of
from voicerelay.control.process import ControlSettings


def control(config: Config, place: Place, lifeline: int) -> str:
    """For `python -m voicerelay.control`."""
    settings = ControlSettings(
        run_dir=str(config.run_dir),
        instance=place.instance.hex(),
        capacity=config.capacity,
        sockets=fds_of(place.sockets),
        transceiver_sockets=fds_of(place.steering.sockets),
        steering=[asdict(group) for group in place.steering.groups],
        lifeline=lifeline,
        log_level=config.log_level,
        log_format=config.log_format,
    )
    return json.dumps(asdict(settings))


def relay(config: Config, index: int, lifeline: int) -> str:
    """For `python -m voicerelay.relay`."""
    settings = roles.relay_settings(config, index)
    return json.dumps(asdict(replace(settings, lifeline=lifeline, parent=os.getpid())))


def transceiver(config: Config, place: Place, slot: int, held: bool, lifeline: int) -> str:
    """For `python -m voicerelay.transceiver`. held: no calls before it is told to open."""
    settings = roles.transceiver_settings(config, slot, place.candidates)
    settings = replace(settings, held=held, lifeline=lifeline, parent=os.getpid())
    return json.dumps(asdict(settings))


def admin(config: Config, lifeline: int) -> str:
    """For `python -m voicerelay.cli.admin`, where the configuration has an address for it."""
    settings = roles.admin_settings(config)
    return json.dumps(asdict(replace(settings, lifeline=lifeline, parent=os.getpid())))
