"""The admin process: reads the shared counters, asks transceivers, serves HTTP. Its death costs nothing."""

import asyncio
import logging
import signal
import socket
import time
from pathlib import Path

import uvloop
from aiohttp import web

from voicerelay.cli.admin.settings import AdminSettings
from voicerelay.cli.admin.snapshot import Looker
from voicerelay.cli.admin.web import AdminWeb
from voicerelay.cli.errors import NotRunning
from voicerelay.cli.status import StatusReader
from voicerelay.shm import logs
from voicerelay.shm.lifeline import Lifeline, die_with_parent
from voicerelay.transceiver.signalling.cors import is_loopback

SHUTDOWN_S = 0.5
BACKLOG = 64

log = logging.getLogger("voicerelay.admin")


class AdminError(Exception):
    """It cannot serve; the message says why."""

    exit_code = 2  # another try would not do either


class NoInstance(AdminError):
    """There is nothing to look at, yet."""

    exit_code = 1


async def serve(settings: AdminSettings, lifeline: Lifeline) -> None:
    """Until SIGTERM or the supervisor's end. Raises AdminError."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # on Ctrl-C the supervisor decides
    lifeline.watch(stopped.set)
    run_dir = Path(settings.run_dir)
    reader = StatusReader(run_dir)
    try:
        reader.region()
    except NotRunning as exc:
        raise NoInstance(exc.message) from None
    admin = AdminWeb(Looker(run_dir, reader), is_loopback(settings.host))
    runner = web.AppRunner(
        admin.application(), access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_S
    )
    await runner.setup()
    try:
        await web.TCPSite(
            runner, settings.host, settings.port, backlog=BACKLOG, reuse_address=True
        ).start()
    except (OSError, socket.gaierror) as exc:
        await runner.cleanup()
        raise AdminError(f"--admin {settings.host}:{settings.port}: {exc.strerror}") from None
    lifeline.ready()
    lifeline.beats(time.monotonic_ns)  # asked by the loop that serves
    await stopped.wait()
    lifeline.stopping()
    await runner.cleanup()


def main(settings: AdminSettings, managed: Lifeline | None = None) -> None:
    """Run until the end; `managed`: to a service manager, if not by the settings' descriptor."""
    if settings.parent:
        die_with_parent(settings.parent)
    logs.set_up("admin", settings.log_level, settings.log_format)
    lifeline = managed or Lifeline(settings.lifeline)
    try:
        uvloop.run(serve(settings, lifeline))
    except AdminError as exc:
        lifeline.fail(str(exc))
        if managed is None:  # who is managed has logged it
            log.error("%s", exc)
        raise SystemExit(exc.exit_code) from None
