"""What `top` reads of /proc."""

import os

from voicerelay.cli.top.sample import use_of


def test_a_process_has_used_time_and_memory() -> None:
    use = use_of(os.getpid())

    assert use is not None
    assert use.cpu_s > 0
    assert use.rss_bytes > 1 << 20


def test_a_process_that_is_gone_has_not() -> None:
    assert use_of(1 << 30) is None
