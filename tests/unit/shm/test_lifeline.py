"""The lifeline: a child reports over it, and either end's death shows on the other."""

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys

import pytest

from voicerelay.shm.lifeline import FAILED, MAX_REPORT_BYTES, READY, Lifeline

PATIENCE_S = 10.0

# A parent that starts a child which binds its life to it, and then lives until it is killed.
PARENT = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-P", "-c", sys.argv[1], str(os.getpid())],
                         stdout=subprocess.PIPE, text=True)
print(child.stdout.readline().strip(), flush=True)
sys.stdin.read()
"""
# Stopped, so that nothing but the kernel can end it.
CHILD = """
import os, signal, sys
from voicerelay.shm.lifeline import die_with_parent
die_with_parent(int(sys.argv[1]))
print(os.getpid(), flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""


def pair() -> tuple[socket.socket, Lifeline]:
    """The supervisor's end, and a child's lifeline."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(PATIENCE_S)
    return ours, Lifeline(theirs.detach())


def gone(lifeline: Lifeline) -> None:
    assert lifeline._socket is not None
    lifeline._socket.close()


def test_a_child_says_that_it_is_ready() -> None:
    ours, lifeline = pair()

    lifeline.ready()

    assert ours.recv(MAX_REPORT_BYTES) == READY
    ours.close()
    gone(lifeline)


def test_a_child_says_in_one_line_why_it_failed() -> None:
    ours, lifeline = pair()

    lifeline.fail("first\nsecond")

    assert ours.recv(MAX_REPORT_BYTES) == FAILED + b"first second\n"
    ours.close()
    gone(lifeline)


@pytest.mark.parametrize("reason", ["x" * 5000, "ä" * 5000])
def test_a_long_reason_is_cut_to_one_report(reason: str) -> None:
    ours, lifeline = pair()

    lifeline.fail(reason)

    report = ours.recv(10 * MAX_REPORT_BYTES)
    assert len(report) <= MAX_REPORT_BYTES
    assert report.startswith(FAILED)
    assert report.endswith(b"\n")
    ours.close()
    gone(lifeline)


def test_a_reason_with_undecodable_bytes_is_told_all_the_same() -> None:
    # given a reason as it comes from a command line that is not UTF-8
    ours, lifeline = pair()

    try:
        lifeline.fail(os.fsdecode(b"no module \xff"))
        report = ours.recv(MAX_REPORT_BYTES)
    finally:
        ours.close()
        gone(lifeline)

    assert report.startswith(FAILED + b"no module")


def test_reports_to_a_supervisor_that_is_gone_are_lost_in_silence() -> None:
    ours, lifeline = pair()
    ours.close()

    lifeline.ready()
    lifeline.fail("nobody hears")

    gone(lifeline)


def test_the_end_of_the_supervisor_is_told_once() -> None:
    async def scenario() -> int:
        # given a child that watches its lifeline
        ours, lifeline = pair()
        told: list[None] = []
        heard = asyncio.Event()

        def on_gone() -> None:
            told.append(None)
            heard.set()

        lifeline.watch(on_gone)
        ours.close()
        async with asyncio.timeout(PATIENCE_S):
            await heard.wait()
        await asyncio.sleep(0)
        gone(lifeline)
        return len(told)

    assert asyncio.run(scenario()) == 1


def test_orders_are_heard_one_by_one_and_the_end_after_them() -> None:
    async def scenario() -> list[bytes]:
        # given a child that watches its lifeline, and two orders that wait there
        ours, lifeline = pair()
        told: list[bytes] = []
        over = asyncio.Event()
        ours.send(b"drain 10")
        ours.send(b"open 0")

        lifeline.watch(over.set, told.append)
        ours.close()
        async with asyncio.timeout(PATIENCE_S):
            await over.wait()
        gone(lifeline)
        return told

    assert asyncio.run(scenario()) == [b"drain 10", b"open 0"]


def test_without_a_supervisor_nothing_happens() -> None:
    async def scenario() -> None:
        lifeline = Lifeline(-1)

        lifeline.ready()
        lifeline.fail("nobody hears")
        lifeline.watch(lambda: pytest.fail("there is nobody to be gone"))

    asyncio.run(scenario())


def test_a_stopped_child_dies_with_its_parent() -> None:
    # given a parent and its child, which the kernel has stopped
    parent = subprocess.Popen(
        [sys.executable, "-P", "-c", PARENT, CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))

        parent.send_signal(signal.SIGKILL)

        poll = select.poll()  # select() takes no descriptor above 1023, and a test run has many
        poll.register(child, select.POLLIN)
        ended = [fd for fd, _ in poll.poll(PATIENCE_S * 1000)]
        os.close(child)
    assert ended


def test_a_child_whose_parent_is_gone_already_dies_at_once() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", CHILD, "1"],
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert done.returncode == -signal.SIGKILL
    assert done.stdout == b""
