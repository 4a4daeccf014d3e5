"""The configuration: every number has its range, and every refusal names the option."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicerelay.cli import config as module
from voicerelay.cli.config import (
    DEFAULT_HTTP,
    MAX_COALESCE_US,
    MAX_RUN_DIR_BYTES,
    Config,
    default_run_dir,
    default_transceivers,
    parse_http,
    parse_origins,
    run_base,
)
from voicerelay.cli.errors import UserError
from voicerelay.shm.counters import MAX_RELAYS, MAX_TRANSCEIVERS
from voicerelay.shm.region import MAX_CAPACITY, MIN_CAPACITY
from voicerelay.transceiver.signalling.keys import MAX_CAP

GOOD = Config(
    app="voicerelay.echo:app",
    port=3478,
    listen=(),
    public_ip=(),
    http_host="127.0.0.1",
    http_port=8080,
    relays=2,
    transceivers=2,
    max_sessions=200,
    capacity=1000,
    run_dir=Path("/run/voicerelay/3478"),
    log_level="info",
)


@pytest.mark.parametrize(
    ("option", "low", "high"),
    [
        ("port", 1, 65535),
        ("relays", 1, MAX_RELAYS),
        ("transceivers", 1, MAX_TRANSCEIVERS),
        ("max_sessions", 1, MAX_CAPACITY),
        ("capacity", MIN_CAPACITY, MAX_CAPACITY),
        ("coalesce_us", 0, MAX_COALESCE_US),
        ("sessions_per_key", 0, MAX_CAP),
    ],
)
def test_a_number_is_taken_within_its_range_only(option: str, low: int, high: int) -> None:
    def with_value(value: int) -> Config:
        changes: dict[str, Any] = {option: value}
        return replace(GOOD, **changes)

    for value in (low, high):
        assert getattr(with_value(value), option) == value

    for value in (low - 1, high + 1, -1):
        with pytest.raises(UserError) as refused:
            with_value(value)
        assert f"--{option.replace('_', '-')}" in refused.value.message
        assert f"{low} to {high}" in refused.value.message


def test_a_run_directory_leaves_room_for_the_names_of_sockets() -> None:
    longest = Path("/" + "x" * (MAX_RUN_DIR_BYTES - 1))

    assert replace(GOOD, run_dir=longest).run_dir == longest
    with pytest.raises(UserError, match="--run-dir"):
        replace(GOOD, run_dir=Path(f"{longest}x"))


def test_a_run_directory_is_measured_in_bytes() -> None:
    with pytest.raises(UserError, match="--run-dir"):
        replace(GOOD, run_dir=Path("/" + "ä" * (MAX_RUN_DIR_BYTES // 2)))


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        (DEFAULT_HTTP, "127.0.0.1", 8080),
        ("localhost:1", "localhost", 1),
        ("0.0.0.0:65535", "0.0.0.0", 65535),
        ("[::1]:8080", "::1", 8080),
        ("[::ffff:192.0.2.1]:80", "::ffff:192.0.2.1", 80),
    ],
)
def test_an_http_address_is_read(text: str, host: str, port: int) -> None:
    assert parse_http(text) == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        *("", "8080", ":8080", "localhost", "localhost:", "localhost:0", "localhost:65536"),
        *("localhost:http", "localhost:-1", "::1:8080", "[::1]", "[]:80", "http://localhost:80"),
        *("localhost:8080/", "localhost:80 80", "localhost:+80", "localhost:080808"),
    ],
)
def test_a_malformed_http_address_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--http"):
        parse_http(text)


@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_an_http_address_or_a_user_error(text: str) -> None:
    try:
        host, port = parse_http(text)
    except UserError:
        return

    assert host
    assert 1 <= port <= 65535


@pytest.mark.parametrize(
    ("cores", "transceivers"), [(None, 1), (1, 1), (8, 8), (1000, MAX_TRANSCEIVERS)]
)
def test_there_is_a_transceiver_for_each_core(
    monkeypatch: pytest.MonkeyPatch, cores: int | None, transceivers: int
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)

    assert default_transceivers() == transceivers


@pytest.mark.parametrize(
    ("uid", "runtime", "base"),
    [
        (0, "/run/user/0", "/run/voicerelay"),
        (1000, "/run/user/1000", "/run/user/1000/voicerelay"),
        (1000, "", "/tmp/voicerelay-1000"),
    ],
)
def test_a_run_directory_belongs_to_user_and_port(
    monkeypatch: pytest.MonkeyPatch, uid: int, runtime: str, base: str
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: uid)
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)

    assert run_base() == Path(base)
    assert default_run_dir(3478) == Path(base) / "3478"


def test_the_default_run_directory_is_short_enough() -> None:
    assert len(str(default_run_dir(65535))) <= module.MAX_RUN_DIR_BYTES


def test_a_key_file_that_cannot_be_used_is_told_without_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("too-short")

    with pytest.raises(UserError, match=f"--api-key-file: {path} line 1") as caught:
        replace(GOOD, api_key_file=path)

    assert "too-short" not in str(caught.value)


def test_who_may_call_is_told(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("a-key-0123456789")

    assert GOOD.callers == "open to anybody on this machine"
    assert replace(GOOD, http_host="0.0.0.0", open=True).callers == "open to anybody (--open)"
    assert replace(GOOD, api_key_file=path).callers == "with an API key or token"
    assert replace(GOOD, http_host="0.0.0.0").callers == "as the application decides"


def test_an_origin_is_checked() -> None:
    assert parse_origins(["https://A.org", "*"]) == ("https://a.org", "*")
    with pytest.raises(UserError, match="--cors-origin"):
        parse_origins(["a.org"])


# ---- a backend -----------------------------------------------------------------------------------

BACKEND = "wss://brain.example/v1/realtime"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"backend": BACKEND, "app": "mine:app"}, "APP or --backend"),
        ({"backend": "https://brain.example"}, "--backend"),
        ({"backend": "wss:///x"}, "--backend"),
        ({"backend": "ws://host:99999/"}, "--backend"),
        ({"backend": "ws://[::1/"}, "--backend"),
        ({"backend": "wss://key@brain.example/"}, "--backend-key-file"),
        ({"backend_vad": True}, "need --backend"),
        ({"backend_key_file": "/dev/null"}, "need --backend"),
        ({"backend": BACKEND, "backend_key_file": "/no/such/file"}, "--backend-key-file"),
        ({"backend": BACKEND, "backend_key_file": "/dev/null"}, "one key"),
    ],
    ids=range(10),
)
def test_a_backend_that_cannot_be_meant_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        replace(GOOD, **given)


def test_a_key_file_holds_one_key(tmp_path: Path) -> None:
    file = tmp_path / "key"
    for text in ("two keys", "a\nb", "\x00", "ü"):
        file.write_text(text)
        with pytest.raises(UserError, match="--backend-key-file"):
            replace(GOOD, backend=BACKEND, backend_key_file=str(file))
    file.write_text("sk-x\n")
    assert replace(GOOD, backend=BACKEND, backend_key_file=str(file)).agent.endswith(
        "brain.example"
    )


def test_an_admin_address_is_read_like_the_other_one() -> None:
    assert GOOD.admin_address is None
    assert replace(GOOD, admin="[::1]:9090").admin_address == ("::1", 9090)
    with pytest.raises(UserError, match='--admin: "9090" is not HOST:PORT'):
        replace(GOOD, admin="9090")
