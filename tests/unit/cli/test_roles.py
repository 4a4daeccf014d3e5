"""Each process is told what the configuration says, whoever starts it."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from voicerelay.cli.config import Config
from voicerelay.cli.roles import description, relay_settings, transceiver_settings
from voicerelay.cli.supervisor import Supervisor
from voicerelay.relay.process import RelaySettings
from voicerelay.transceiver.settings import TransceiverSettings

BY_THE_SUPERVISOR = ("lifeline", "parent")


def config(run_dir: Path) -> Config:
    return Config(
        app="my:app",
        port=4000,
        listen=("127.0.0.1",),
        public_ip=(),
        http_host="127.0.0.1",
        http_port=8081,
        relays=3,
        transceivers=4,
        max_sessions=5,
        capacity=64,
        run_dir=run_dir,
        log_level="debug",
        coalesce_us=17,
        pin=False,
        cors_origins=("https://app.example",),
        open=True,
        sessions_per_key=6,
    )


def own(settings: RelaySettings | TransceiverSettings) -> dict[str, Any]:
    """Without what only a supervisor can say."""
    return {k: v for k, v in asdict(settings).items() if k not in BY_THE_SUPERVISOR}


def test_a_service_is_told_what_a_supervisors_child_is(tmp_path: Path) -> None:
    chosen = config(tmp_path)
    supervisor = Supervisor(chosen)
    supervisor.candidates = [("127.0.0.1", 4000)]

    relay = RelaySettings.from_json(supervisor._relay_settings(2)(7))
    transceiver = TransceiverSettings.from_json(supervisor._transceiver_settings(3)(7))

    assert own(relay_settings(chosen, 2)) == own(relay)
    assert own(transceiver_settings(chosen, 3, supervisor.candidates)) == own(transceiver)


def test_status_is_told_what_runs(tmp_path: Path) -> None:
    told = description(config(tmp_path), ["127.0.0.1"], 4711, plane="portable")

    assert (told["pid"], told["port"], told["http"], told["plane"]) == (
        4711,
        4000,
        "127.0.0.1:8081",
        "portable",
    )
