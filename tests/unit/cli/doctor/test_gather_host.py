"""What doctor gathers of the host: real figures, in their ranges."""

import os

from voicerelay.cli.doctor import gather_host as module
from voicerelay.cli.doctor.gather_host import gather_host, gather_kernel


def test_figures_of_this_host_are_in_their_ranges() -> None:
    host = gather_host(None)

    assert 0 < host.cores <= len(os.sched_getaffinity(0))
    assert 0 < host.files_soft <= host.files_hard
    assert host.memory_bytes > 0
    assert host.shm_free_bytes > 0
    assert host.synchronised in (True, False, None)


def test_limits_are_those_of_the_instance() -> None:
    assert gather_host(os.getpid()).files_soft == gather_host(None).files_soft
    assert gather_host(1 << 30).files_soft == gather_host(None).files_soft  # none of that pid


def test_capabilities_are_read_by_their_bits() -> None:
    assert module._capabilities("Name:\tx\nCapEff:\t0000008000001000\n") == {
        "CAP_BPF",
        "CAP_NET_ADMIN",
    }
    assert module._capabilities("CapEff:\t0000000000000000") == frozenset()
    assert module._capabilities("") == frozenset()


def test_the_kernel_is_really_tried() -> None:
    kernel = gather_kernel()

    assert kernel.release
    assert "CAP_BPF" in kernel.capabilities or kernel.steering_obstacle
