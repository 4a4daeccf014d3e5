"""The servers that clients are told of."""

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicerelay.transceiver.signalling.iceservers import (
    CREDENTIAL_TTL_S,
    MAX_FILE_BYTES,
    MAX_SERVERS,
    IceServersError,
    link_header,
    parse_ice_servers,
    read_ice_servers,
)

NOW = 1_800_000_000.0
STUN = {"urls": "stun:stun.example.org"}
TURN = {"urls": ["turn:192.0.2.1:3478?transport=udp"], "username": "u", "credential": "c"}
SHARED = {"urls": ["turns:turn.example.org:443"], "secret": "shared"}


def made(*servers: dict[str, Any]) -> list[dict[str, Any]]:
    return [server.configuration("alice", NOW) for server in parse_ice_servers(json.dumps(servers))]


def test_servers_are_told_as_browsers_want_them() -> None:
    assert made(STUN, TURN) == [{"urls": ["stun:stun.example.org"]}, TURN]
    assert parse_ice_servers(json.dumps({"iceServers": [STUN]})) == parse_ice_servers(
        json.dumps([STUN])
    )


def test_a_secret_makes_credentials_that_expire() -> None:
    (told,) = made(SHARED)

    assert told["username"] == f"{int(NOW) + CREDENTIAL_TTL_S}:alice"
    digest = hmac.new(b"shared", told["username"].encode(), hashlib.sha1).digest()
    assert told["credential"] == base64.b64encode(digest).decode()
    assert "shared" not in str(told)


def test_the_link_header_is_what_whip_says() -> None:
    quoted = TURN | {"username": 'a"b'}

    assert link_header(made(STUN, quoted)) == (
        '<stun:stun.example.org>; rel="ice-server", '
        '<turn:192.0.2.1:3478?transport=udp>; rel="ice-server"; username="a\\"b"; '
        'credential="c"; credential-type="password"'
    )


BAD_SERVERS: list[Any] = [
    "stun:a",
    {"urls": []},
    {"urls": "http://a"},
    {"urls": "turn:a b", "secret": "s"},
    {"urls": "stun:a?transport=udp"},
    {"urls": "turn:a?transport=sctp", "secret": "s"},
    {"urls": "turn:a"},
    {"urls": "turn:a", "username": "u"},
    {"urls": "turn:a", "username": "u", "credential": "line\nend"},
    {"urls": "turn:a", "username": "", "credential": "c"},
    {"urls": "turn:a", "secret": "s", "username": "u", "credential": "c"},
    {"urls": "turn:a", "secret": 7},
    {"urls": "turn:a", "secret": "s", "other": 1},
]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "[" * 100_000,
        json.dumps([STUN] * (MAX_SERVERS + 1)),
        *(json.dumps([entry]) for entry in BAD_SERVERS),
    ],
)
def test_a_bad_file_is_refused(text: str) -> None:
    with pytest.raises(IceServersError):
        parse_ice_servers(text)


@given(st.text(max_size=200))
def test_any_text_is_servers_or_an_error(text: str) -> None:
    try:
        parse_ice_servers(text)
    except IceServersError:
        return


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff")
    (tmp_path / "large").write_bytes(b" " * (MAX_FILE_BYTES + 1))
    (tmp_path / "good").write_bytes(json.dumps([STUN]).encode().ljust(MAX_FILE_BYTES))

    for name in ("missing", ".", "binary", "large"):
        with pytest.raises(IceServersError):
            read_ice_servers(str(tmp_path / name))
    assert len(read_ice_servers(str(tmp_path / "good"))) == 1
