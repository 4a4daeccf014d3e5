"""What each process is told when it starts: its settings, as the JSON on its command line."""

import json
import os
from dataclasses import asdict

from voicerelay.cli.config import Config
from voicerelay.cli.place import Place, fds_of
from voicerelay.control.process import ControlSettings
from voicerelay.relay.process import RelaySettings
from voicerelay.transceiver.settings import AccessSettings, TransceiverSettings


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
    settings = RelaySettings(
        run_dir=str(config.run_dir),
        index=index,
        coalesce_us=config.coalesce_us,
        lifeline=lifeline,
        parent=os.getpid(),
        log_level=config.log_level,
        log_format=config.log_format,
    )
    return json.dumps(asdict(settings))


def transceiver(config: Config, place: Place, slot: int, held: bool, lifeline: int) -> str:
    """For `python -m voicerelay.transceiver`. held: no calls before it is told to open."""
    access = AccessSettings(
        api_key_file=str(config.api_key_file or ""),
        cors_origins=list(config.cors_origins),
        open=config.open,
        sessions_per_key=config.sessions_per_key,
    )
    settings = TransceiverSettings(
        run_dir=str(config.run_dir),
        slot=slot,
        app=config.app,
        http_host=config.http_host,
        http_port=config.http_port,
        candidates=place.candidates,
        max_sessions=config.max_sessions,
        ice_servers_file=str(config.ice_servers or ""),
        access=access,
        pin=config.pin,
        lifeline=lifeline,
        parent=os.getpid(),
        log_level=config.log_level,
        log_format=config.log_format,
        backend=config.backend,
        backend_key_file=config.backend_key_file,
        backend_vad=config.backend_vad,
        held=held,
        drain_deadline_s=config.drain_deadline,
    )
    return json.dumps(asdict(settings))
