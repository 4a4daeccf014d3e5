"""What each process is told, and `status` too, from the one configuration."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from voicerelay import __version__
from voicerelay.cli import network
from voicerelay.cli.admin.settings import AdminSettings
from voicerelay.cli.config import Config
from voicerelay.relay.process import RelaySettings
from voicerelay.shm import rundir
from voicerelay.transceiver.settings import AccessSettings, TransceiverSettings


def relay_settings(config: Config, index: int) -> RelaySettings:
    """Of the relay with this index."""
    return RelaySettings(
        run_dir=str(config.run_dir),
        index=index,
        coalesce_us=config.coalesce_us,
        log_level=config.log_level,
        log_format=config.log_format,
    )


def transceiver_settings(
    config: Config, slot: int, candidates: list[tuple[str, int]]
) -> TransceiverSettings:
    """Of the transceiver in this slot; `candidates`: what clients are told, one a listen address."""
    return TransceiverSettings(
        run_dir=str(config.run_dir),
        slot=slot,
        app=config.app,
        http_host=config.http_host,
        http_port=config.http_port,
        candidates=candidates,
        max_sessions=config.max_sessions,
        ice_servers_file=_text(config.ice_servers),
        access=AccessSettings(
            api_key_file=_text(config.api_key_file),
            cors_origins=list(config.cors_origins),
            open=config.open,
            sessions_per_key=config.sessions_per_key,
        ),
        pin=config.pin,
        log_level=config.log_level,
        log_format=config.log_format,
        backend=config.backend,
        backend_key_file=config.backend_key_file,
        backend_vad=config.backend_vad,
        call_records=config.call_records,
        drain_deadline_s=config.drain_deadline,
    )


def admin_settings(config: Config) -> AdminSettings:
    """Of the admin process, where the configuration has an address for it."""
    assert config.admin_address is not None
    host, port = config.admin_address
    return AdminSettings(
        run_dir=str(config.run_dir),
        host=host,
        port=port,
        log_level=config.log_level,
        log_format=config.log_format,
    )


def describe(config: Config, hosts: list[str], **more: Any) -> None:
    """Write the instance file, which `status` reads. `hosts`: the listen addresses."""
    described = {
        "version": __version__,
        "pid": os.getpid(),
        "app": config.agent,
        "port": config.port,
        "listen": hosts,
        "http": network.host_port(config.http_host, config.http_port),
        "relays": config.relays,
        "transceivers": config.transceivers,
        **more,
    }
    with contextlib.suppress(OSError):
        path = config.run_dir / rundir.INSTANCE_FILE
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(described))
        fresh.replace(path)  # a reader sees the old one or the new one


def _text(path: Path | None) -> str:
    return str(path or "")
