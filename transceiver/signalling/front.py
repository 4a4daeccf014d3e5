"""A transceiver's HTTP: TCP for clients, a Unix socket for siblings, our signalling or the user's app."""

import asyncio
import socket
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from aiohttp import web

from voicerelay.shm import rundir
from voicerelay.transceiver.agent import AppError
from voicerelay.transceiver.settings import TransceiverSettings
from voicerelay.transceiver.signalling.app import Signalling
from voicerelay.transceiver.signalling.connections import KEEP_ALIVE_S

HTTP_BACKLOG = 512
HTTP_SHUTDOWN_S = 0.5


class FrontError(Exception):
    """HTTP cannot be served; the message says why."""


class Front(Protocol):
    """Serves HTTP between `start` and `stop`."""

    async def start(self) -> None:
        """Raises FrontError."""

    async def stop(self) -> None: ...


class SignallingFront:
    """Our own signalling, with aiohttp."""

    def __init__(self, signalling: Signalling, settings: TransceiverSettings) -> None:
        self._signalling = signalling
        self._settings = settings
        self._runners: list[web.AppRunner] = []
        self._listening: list[asyncio.Server] = []

    async def start(self) -> None:
        tcp, unix = bind(self._settings)
        siblings = await self._runner(internal=True)
        await web.SockSite(siblings, unix, backlog=HTTP_BACKLOG).start()
        server = (await self._runner(internal=False)).server
        assert server is not None
        protocol = partial(self._signalling.connections.protocol, server)
        loop = asyncio.get_running_loop()
        for sock in tcp:
            listening = await loop.create_server(protocol, sock=sock, backlog=HTTP_BACKLOG)
            self._listening.append(listening)

    async def stop(self) -> None:
        for listening in self._listening:
            listening.close()
        for runner in self._runners:
            await runner.cleanup()

    async def _runner(self, internal: bool) -> web.AppRunner:
        runner = web.AppRunner(
            self._signalling.application(internal),
            logger=self._signalling.connections.log,
            access_log=None,
            handle_signals=False,
            keepalive_timeout=KEEP_ALIVE_S,
            shutdown_timeout=HTTP_SHUTDOWN_S,
        )
        self._runners.append(runner)
        await runner.setup()
        return runner


def require_asgi() -> None:
    """Raises AppError when an ASGI app cannot be served here."""
    if find_spec("uvicorn") is None:
        raise AppError('APP: an ASGI application needs uvicorn: pip install "voicerelay[asgi]"')


def bind(settings: TransceiverSettings) -> tuple[list[socket.socket], socket.socket]:
    """TCP sockets, whose port siblings share, and a Unix socket; nobody listens yet. Raises FrontError."""
    tcp: list[socket.socket] = []
    host, port = settings.http_host, settings.http_port
    try:
        for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            sock = socket.socket(family, socket.SOCK_STREAM)
            tcp.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
    except OSError as exc:
        for sock in tcp:
            sock.close()
        raise FrontError(f"HTTP {host}:{port}: {exc.strerror}") from exc
    path = rundir.http_socket(Path(settings.run_dir), settings.slot)
    path.unlink(missing_ok=True)
    unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    unix.bind(str(path))
    path.chmod(rundir.SOCKET_MODE)
    return tcp, unix
