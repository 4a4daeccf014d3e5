"""What is pinned is enough: a process that knows only the name finds the calls that are up."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support import bpffs
from tests.support.bpffs import Mounted
from tests.support.callers import callers, heard_all, talk_all
from tests.support.server import Server, server
from tests.system.conftest import steering_unavailable
from voicerelay.cli.status import read_status, render
from voicerelay.shm import rundir
from voicerelay.shm.region import Region

pytestmark = pytest.mark.system

CALLS = 4
FIND_FLOWS = """
import sys
from pathlib import Path
from voicerelay.relay import steering
from voicerelay.shm import rundir
from voicerelay.shm.bpf import BpfMap
from voicerelay.shm.path import PATH_BYTES
from voicerelay.shm.region import DEFAULT_CAPACITY, Sizes
pins = rundir.pins(Path(sys.argv[1]))
for group in steering.reopen(pins, Sizes.for_capacity(DEFAULT_CAPACITY)):
    for key in BpfMap(group.flows, steering.OWNER_BYTES).keys(PATH_BYTES):
        print(key.hex())
"""


@pytest.fixture(scope="module")
def fs() -> Iterator[Mounted]:
    if reason := steering_unavailable() or bpffs.obstacle():
        pytest.skip(f"kernel steering: {reason}")
    with bpffs.mounted() as mounted:
        yield mounted


@pytest.fixture(scope="module")
def running(fs: Mounted) -> Iterator[Server]:
    with server(prefix=fs.prefix, extra=("--steering", "on")) as started:
        yield started


def is_flow(running: Server, path: str) -> bool:
    """Whether the shared table has it too."""
    region = Region.attach(rundir.region_name(running.run_dir))
    try:
        return region.flow_reader().find(bytes.fromhex(path)) is not None
    finally:
        region.close()


def test_a_process_that_has_only_the_pins_finds_the_calls(fs: Mounted, running: Server) -> None:
    async def scenario() -> None:
        # given calls that are up
        async with callers(running.http_url, CALLS) as (calls, _):
            await talk_all(calls, 0.2)

            # when a new process opens the pins by their names
            command = [*fs.prefix, sys.executable, "-P", "-c", FIND_FLOWS, str(running.run_dir)]
            done = await asyncio.to_thread(
                subprocess.run, command, capture_output=True, text=True, check=False, timeout=30
            )

            # then it has the flows, and the calls go on
            assert done.returncode == 0, done.stderr
            found = set(done.stdout.split())
            assert len(found) == CALLS
            assert all(is_flow(running, path) for path in found)
            await talk_all(calls, 0.2)
            assert all(await asyncio.gather(*(heard_all(call, 0) for call in calls)))

    asyncio.run(scenario())


def test_status_says_nothing_of_pins_that_are_there(running: Server) -> None:
    status = read_status(running.run_dir)

    assert status["unpinned_because"] == ""
    assert "plane: steering" in render(status).splitlines()
    assert "pinned" not in running.output
