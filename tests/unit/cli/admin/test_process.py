"""The admin process starts where it can, says why where it cannot, and ends when it is told."""

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
import pytest

from tests.support.server import free_port
from voicerelay.cli.admin.process import AdminError, NoInstance, serve
from voicerelay.cli.admin.settings import AdminSettings
from voicerelay.cli.errors import UserError
from voicerelay.shm import rundir
from voicerelay.shm.lifeline import READY, Lifeline
from voicerelay.shm.region import MIN_CAPACITY, Region, Sizes, remove_segments

WAIT_S = 10.0


@contextlib.contextmanager
def lifeline() -> Iterator[tuple[Lifeline, socket.socket]]:
    """A lifeline and the supervisor's end of it."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    made = Lifeline(theirs.detach())
    assert made._socket is not None
    with ours, made._socket:
        yield made, ours


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """Of an instance without processes."""
    with TemporaryDirectory(prefix="vr-") as folder:
        name = rundir.region_name(Path(folder))
        Region.create(name, bytes(16), Sizes.for_capacity(MIN_CAPACITY)).close()
        described = {"listen": ["127.0.0.1"], "relays": 1, "transceivers": 1}
        (Path(folder) / rundir.INSTANCE_FILE).write_text(json.dumps(described))
        yield Path(folder)
        remove_segments(name)


def test_it_answers_until_it_is_told_to_end(run_dir: Path) -> None:
    async def run() -> None:
        port = free_port(socket.SOCK_STREAM)
        settings = AdminSettings(str(run_dir), "127.0.0.1", port)
        with lifeline() as (theirs, ours):
            serving = asyncio.create_task(serve(settings, theirs))
            async with asyncio.timeout(WAIT_S):
                assert await asyncio.get_running_loop().sock_recv(ours, 100) == READY

                async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
                    assert (await http.get("/livez")).status == 200
                    assert (await http.get("/readyz")).status == 503  # nobody is there
                    assert (await http.get("/metrics")).status == 200

                os.kill(os.getpid(), signal.SIGTERM)
                await serving

    asyncio.run(run())


def test_it_ends_with_its_supervisor(run_dir: Path) -> None:
    async def run() -> None:
        settings = AdminSettings(str(run_dir), "127.0.0.1", free_port(socket.SOCK_STREAM))
        with lifeline() as (theirs, ours):
            serving = asyncio.create_task(serve(settings, theirs))

            ours.close()

            async with asyncio.timeout(WAIT_S):
                await serving

    asyncio.run(run())


def test_a_taken_address_is_named(run_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = AdminSettings(str(run_dir), "127.0.0.1", port)

        with pytest.raises(AdminError, match=rf"^--admin 127\.0\.0\.1:{port}: .+"):
            asyncio.run(serve(settings, Lifeline(-1)))


def test_without_an_instance_there_is_nothing_to_show() -> None:
    with pytest.raises(NoInstance, match="/nowhere cannot be read") as raised:
        asyncio.run(serve(AdminSettings("/nowhere", "127.0.0.1", 1), Lifeline(-1)))

    # so that systemd tries again, which it does not after an error in the configuration
    assert raised.value.exit_code != UserError.exit_code


def test_a_service_manager_hears_of_its_life(run_dir: Path) -> None:
    told: list[str] = []

    class Told(Lifeline):
        def ready(self) -> None:
            told.append("ready")

        def beats(self, heartbeat: Callable[[], int]) -> None:
            assert heartbeat() < heartbeat()
            told.append("beats")
            os.kill(os.getpid(), signal.SIGTERM)

        def stopping(self) -> None:
            told.append("stopping")

    settings = AdminSettings(str(run_dir), "127.0.0.1", free_port(socket.SOCK_STREAM))

    asyncio.run(asyncio.wait_for(serve(settings, Told(-1)), WAIT_S))

    assert told == ["ready", "beats", "stopping"]
