"""The command line's options: each reaches the configuration, and each has its variable."""

import os
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from click.testing import CliRunner

from voicerelay.cli.config import (
    DEFAULT_APP,
    DEFAULT_CAPACITY,
    DEFAULT_MAX_SESSIONS,
    DEFAULT_PORT,
    DEFAULT_RELAYS,
    Config,
    default_run_dir,
    default_transceivers,
)
from voicerelay.cli.errors import UserError
from voicerelay.cli.main import banner, main


class Stopped(UserError):
    """Stands for a start that went as far as it should here."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configurations that would be started."""
    found: list[Config] = []

    class Recorder:
        def __init__(self, config: Config, *_: object) -> None:
            found.append(config)

        def prepare(self) -> NoReturn:
            raise Stopped("that is enough")

    monkeypatch.setattr("voicerelay.cli.supervisor.Supervisor", Recorder)
    return found


def test_without_options_the_defaults_are_meant(
    seen: list[Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("VOICERELAY_")]:
        monkeypatch.delenv(name)

    CliRunner().invoke(main, ["start"])

    (config,) = seen
    assert config == Config(
        app=DEFAULT_APP,
        port=DEFAULT_PORT,
        listen=(),
        public_ip=(),
        http_host="127.0.0.1",
        http_port=8080,
        relays=DEFAULT_RELAYS,
        transceivers=default_transceivers(),
        max_sessions=DEFAULT_MAX_SESSIONS,
        capacity=DEFAULT_CAPACITY,
        run_dir=default_run_dir(DEFAULT_PORT),
        log_level="info",
    )


VARIABLES = {
    "VOICERELAY_APP": "mine:app",
    "VOICERELAY_PORT": "4000",
    "VOICERELAY_LISTEN": "192.0.2.1 2001:db8::1",
    "VOICERELAY_PUBLIC_IP": "198.51.100.1 2001:db8::2",
    "VOICERELAY_HTTP": "[::1]:9000",
    "VOICERELAY_RELAYS": "3",
    "VOICERELAY_TRANSCEIVERS": "4",
    "VOICERELAY_MAX_SESSIONS": "5",
    "VOICERELAY_CAPACITY": "600",
    "VOICERELAY_RUN_DIR": "/tmp/vrtest-variables",
    "VOICERELAY_LOG_LEVEL": "debug",
    "VOICERELAY_STEERING": "auto",
    "VOICERELAY_COALESCE_US": "300",
    "VOICERELAY_OPEN": "1",
    "VOICERELAY_CORS_ORIGIN": "https://a.org http://b.org",
    "VOICERELAY_SESSIONS_PER_KEY": "7",
    "VOICERELAY_ADMIN": "[::1]:9090",
    "VOICERELAY_CALL_RECORDS": "journal",
}
BY_VARIABLES = Config(
    app="mine:app",
    port=4000,
    listen=("192.0.2.1", "2001:db8::1"),
    public_ip=("198.51.100.1", "2001:db8::2"),
    http_host="::1",
    http_port=9000,
    relays=3,
    transceivers=4,
    max_sessions=5,
    capacity=600,
    run_dir=Path("/tmp/vrtest-variables"),
    log_level="debug",
    steering="auto",
    coalesce_us=300,
    open=True,
    cors_origins=("https://a.org", "http://b.org"),
    sessions_per_key=7,
    admin="[::1]:9090",
    call_records="journal",
)


def test_every_option_has_its_variable(seen: list[Config], tmp_path: Path) -> None:
    keys, servers = tmp_path / "keys", tmp_path / "servers"
    keys.write_text("a-key-0123456789")
    servers.write_text('[{"urls": "stun:192.0.2.1"}]')
    files = {"VOICERELAY_API_KEY_FILE": str(keys), "VOICERELAY_ICE_SERVERS": str(servers)}

    CliRunner().invoke(main, ["start"], env=VARIABLES | files)

    assert seen == [replace(BY_VARIABLES, api_key_file=keys, ice_servers=servers)]


def test_a_backend_takes_the_place_of_an_app(seen: list[Config], tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-x\n")
    variables = {
        "VOICERELAY_BACKEND": "wss://brain.example/v1/realtime?model=m",
        "VOICERELAY_BACKEND_KEY_FILE": str(tmp_path / "key"),
        "VOICERELAY_BACKEND_VAD": "1",
    }

    CliRunner().invoke(main, ["start"], env=variables)

    (config,) = seen
    assert config.backend == variables["VOICERELAY_BACKEND"]
    assert config.backend_key_file == variables["VOICERELAY_BACKEND_KEY_FILE"]
    assert config.backend_vad
    assert "Realtime backend at brain.example\n" in banner(config, ["192.0.2.1"], steered=False)


def test_an_option_is_stronger_than_its_variable(seen: list[Config]) -> None:
    CliRunner().invoke(main, ["start", "other:app", "--port", "5000"], env=VARIABLES)

    assert (seen[0].port, seen[0].app) == (5000, "other:app")


def test_a_relative_run_directory_is_made_absolute(seen: list[Config]) -> None:
    CliRunner().invoke(main, ["start", "--run-dir", "some/where"])

    assert seen[0].run_dir == Path.cwd() / "some" / "where"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://localhost:9000/"),
        ("::1", "http://localhost:9000/"),
        ("192.0.2.1", "http://192.0.2.1:9000/"),
        ("2001:db8::1", "http://[2001:db8::1]:9000/"),
    ],
)
def test_the_banner_tells_where_to_call(host: str, url: str) -> None:
    config = Config(**(vars(BY_VARIABLES) | {"http_host": host, "app": DEFAULT_APP}))

    shown = banner(config, ["192.0.2.1", "2001:db8::1"], steered=False)

    assert shown.startswith(f"voicerelay is ready: open {url} and press Call")
    assert "UDP port 4000 on 192.0.2.1, 2001:db8::1" in shown
    assert "portable" in shown


def test_the_banner_promises_no_demo_page_of_an_app_that_may_have_another() -> None:
    shown = banner(BY_VARIABLES, ["192.0.2.1"], steered=False)

    assert shown.startswith("voicerelay is ready: open http://")
    assert "press Call" not in shown


@pytest.mark.parametrize(
    ("admin", "line"),
    [
        ("127.0.0.1:9090", "  admin   http://127.0.0.1:9090/"),
        ("[::1]:9090", "  admin   http://[::1]:9090/"),
        ("0.0.0.0:9090", "  admin   http://0.0.0.0:9090/  (open to whoever reaches it)"),
    ],
)
def test_the_banner_tells_where_operators_look_and_who_else_can(admin: str, line: str) -> None:
    config = replace(BY_VARIABLES, admin=admin)

    assert line in banner(config, ["192.0.2.1"], steered=False).splitlines()
    without = replace(config, admin="")
    assert "admin" not in banner(without, ["192.0.2.1"], steered=False)
