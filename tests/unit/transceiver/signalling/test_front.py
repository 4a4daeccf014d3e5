"""HTTP sockets of a transceiver: shared with siblings, refused in one line."""

import socket
import stat
from pathlib import Path

import pytest

from tests.support.server import free_port
from voicerelay.shm import rundir
from voicerelay.transceiver.agent import AppError
from voicerelay.transceiver.settings import TransceiverSettings
from voicerelay.transceiver.signalling import front
from voicerelay.transceiver.signalling.front import FrontError, bind, require_asgi


def settings(
    run_dir: Path, port: int, slot: int = 0, host: str = "127.0.0.1"
) -> TransceiverSettings:
    return TransceiverSettings(str(run_dir), slot, "x:app", host, port, [], 1)


def close(bound: tuple[list[socket.socket], socket.socket]) -> None:
    for sock in (*bound[0], bound[1]):
        sock.close()


def test_siblings_share_one_tcp_port_and_have_unix_sockets_of_their_own(tmp_path: Path) -> None:
    port = free_port(socket.SOCK_STREAM)

    first = bind(settings(tmp_path, port, 0))
    second = bind(settings(tmp_path, port, 1))

    assert [s.getsockname()[1] for s in (*first[0], *second[0])] == [port, port]
    for slot in (0, 1):
        mode = rundir.http_socket(tmp_path, slot).stat().st_mode
        assert stat.S_IMODE(mode) == rundir.SOCKET_MODE
    close(first)
    close(second)


def test_a_socket_that_a_predecessor_left_is_replaced(tmp_path: Path) -> None:
    port = free_port(socket.SOCK_STREAM)
    close(bind(settings(tmp_path, port)))

    close(bind(settings(tmp_path, port)))


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(FrontError, match=rf"HTTP 127\.0\.0\.1:{port}: Address already in use"):
            bind(settings(tmp_path, port))


def test_an_address_that_is_not_ours_is_named(tmp_path: Path) -> None:
    with pytest.raises(FrontError, match=r"HTTP 192\.0\.2\.1:8080: "):
        bind(settings(tmp_path, 8080, host="192.0.2.1"))


def test_an_asgi_app_without_uvicorn_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    require_asgi()
    monkeypatch.setattr(front, "find_spec", lambda name: None)

    with pytest.raises(AppError, match=r'pip install "voicerelay\[asgi\]"'):
        require_asgi()
