"""One core for each transceiver: a voice that is moved between cores pays for it with cold caches."""

import os


def pin(slot: int) -> int:
    """Keep this process on the core that the slot stands for; which one that is."""
    cores = sorted(os.sched_getaffinity(0))
    core = cores[slot % len(cores)]
    os.sched_setaffinity(0, {core})
    return core


def unpin() -> None:
    """Let this process or thread use every core again.

    For workers of an agent, such as `ProcessPoolExecutor(initializer=voicerelay.unpin)`: what a
    transceiver starts is born on its core, where it would make every voice late.
    """
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
