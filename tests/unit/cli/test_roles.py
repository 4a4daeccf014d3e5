"""Each process is told what the configuration says, whoever starts it."""

import json
import os
from dataclasses import replace
from pathlib import Path

from voicerelay.cli import told
from voicerelay.cli.admin.settings import AdminSettings
from voicerelay.cli.config import Config
from voicerelay.cli.place import Place
from voicerelay.cli.roles import describe, relay_settings, transceiver_settings
from voicerelay.relay.process import RelaySettings
from voicerelay.shm import rundir
from voicerelay.transceiver.settings import TransceiverSettings


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


def test_a_service_is_told_what_a_supervisors_child_is(tmp_path: Path) -> None:
    chosen = config(tmp_path)
    place = Place(chosen)
    place.candidates = [("127.0.0.1", 4000)]
    pid = os.getpid()

    relay = RelaySettings.from_json(told.relay(chosen, 2, 7))
    transceiver = TransceiverSettings.from_json(told.transceiver(chosen, place, 3, True, 7))

    assert relay == replace(relay_settings(chosen, 2), lifeline=7, parent=pid)
    service = transceiver_settings(chosen, 3, place.candidates)
    assert transceiver == replace(service, held=True, lifeline=7, parent=pid)


def test_the_admin_process_is_told_where_to_look_and_to_answer(tmp_path: Path) -> None:
    chosen = replace(config(tmp_path), admin="[::1]:9090")

    found = AdminSettings.from_json(told.admin(chosen, 8))

    assert (found.run_dir, found.host, found.port) == (str(tmp_path), "::1", 9090)
    assert (found.lifeline, found.parent) == (8, os.getpid())


def test_status_is_told_what_runs(tmp_path: Path) -> None:
    describe(config(tmp_path), ["127.0.0.1"], plane="portable")

    told = json.loads((tmp_path / rundir.INSTANCE_FILE).read_text())
    assert (told["pid"], told["port"]) == (os.getpid(), 4000)
    assert (told["http"], told["plane"]) == ("127.0.0.1:8081", "portable")
    assert [path.name for path in tmp_path.iterdir()] == [rundir.INSTANCE_FILE]
