"""Doctor's judgement of the host, of facts made up here."""

import dataclasses
from typing import Any

import pytest

from voicerelay.cli.doctor import checks_host as checks
from voicerelay.cli.doctor.facts import HostFacts, KernelFacts, Wanted
from voicerelay.cli.doctor.finding import State

WANTED = Wanted(
    port=3478,
    hosts=("192.0.2.1",),
    public=(),
    http_host="127.0.0.1",
    http_port=8080,
    relays=2,
    transceivers=2,
    max_sessions=200,
    capacity=16_384,
)
KERNEL = KernelFacts("6.1", frozenset(("CAP_BPF", "CAP_NET_ADMIN")))
HOST = HostFacts(
    clock_source="tsc",
    clock_sources=("tsc", "hpet"),
    synchronised=True,
    clock_error_us=5000,
    cores=2,
    files_soft=1024,
    files_hard=1024,
    memory_bytes=4 << 30,
    shm_free_bytes=1 << 30,
)


def wanted(**changes: Any) -> Wanted:
    return dataclasses.replace(WANTED, **changes)


def kernel(**changes: Any) -> KernelFacts:
    return dataclasses.replace(KERNEL, **changes)


def host(**changes: Any) -> HostFacts:
    return dataclasses.replace(HOST, **changes)


def test_nothing_is_to_mend_on_a_host_as_it_should_be() -> None:
    findings = checks.check_kernel(WANTED, KERNEL) + checks.check_host(WANTED, HOST, False)

    assert {finding.state for finding in findings} == {State.OK}
    assert [finding.mend for finding in findings if finding.mend] == []


def test_every_finding_that_is_not_ok_has_a_mend() -> None:
    weak_kernel = kernel(
        capabilities=frozenset(),
        steering_obstacle="no permission",
        loop_obstacle="not built",
        voice_obstacle="not built",
    )
    weak_host = host(
        clock_source="hpet",
        synchronised=False,
        cores=1,
        files_soft=100,
        memory_bytes=1 << 20,
        shm_free_bytes=0,
        governors=frozenset(("powersave",)),
    )

    findings = checks.check_kernel(WANTED, weak_kernel)
    findings += checks.check_host(WANTED, weak_host, running=False)

    bad = [finding for finding in findings if finding.state != State.OK]
    assert len(bad) == 10
    assert [finding.name for finding in bad if not finding.mend] == []


def test_missing_capabilities_are_told_with_their_use() -> None:
    found = checks.check_capabilities(WANTED, kernel(capabilities=frozenset(("CAP_BPF",))))

    assert found.state == State.OK
    assert "has CAP_BPF" in found.seen
    assert "without CAP_NET_ADMIN (receive buffers" in found.seen


@pytest.mark.parametrize(
    ("steering", "obstacle", "state"),
    [
        ("auto", "", State.OK),
        ("auto", "no permission to load it", State.WARN),
        ("on", "no permission to load it", State.FAIL),
        ("off", "no permission to load it", State.OK),
    ],
)
def test_steering_as_it_was_tried(steering: str, obstacle: str, state: State) -> None:
    found = checks.check_steering(wanted(steering=steering), kernel(steering_obstacle=obstacle))

    assert found.state == state


@pytest.mark.parametrize(
    ("obstacle", "mend"),
    [
        ("libbpf.so.1 is not installed (Debian: libbpf1)", "libbpf1"),
        ("the program was not built; install clang and libbpf-dev, then voicerelay", "clang"),
        ("no permission to load it: needs CAP_BPF", "CAP_BPF"),
        ("this kernel does not take it (Invalid argument)", "--steering off"),
    ],
)
def test_each_obstacle_to_steering_has_its_mend(obstacle: str, mend: str) -> None:
    assert mend in checks.check_steering(WANTED, kernel(steering_obstacle=obstacle)).mend


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, State.OK),
        ({"pin_obstacle": "not mounted"}, State.WARN),
        ({"pin_obstacle": "not mounted", "steering_obstacle": "no libbpf"}, State.OK),
    ],
)
def test_bpffs_matters_where_steering_works(changes: dict[str, str], state: State) -> None:
    assert checks.check_pins(WANTED, kernel(**changes)).state == state


def test_a_slow_clock_is_changed_for_a_fast_one_that_is_there() -> None:
    found = checks.check_clock_source(host(clock_source="hpet"))
    without = checks.check_clock_source(host(clock_source="hpet", clock_sources=("hpet",)))

    assert (found.state, found.mend[:8]) == (State.WARN, "echo tsc")
    assert "tsc=reliable" in without.mend


@pytest.mark.parametrize(
    ("synchronised", "state"), [(True, State.OK), (None, State.OK), (False, State.WARN)]
)
def test_the_time_of_day(synchronised: bool | None, state: State) -> None:
    assert checks.check_synchronised(host(synchronised=synchronised)).state == state


@pytest.mark.parametrize(
    ("soft", "hard", "state", "mend"),
    [(1024, 1024, State.OK, ""), (256, 4096, State.WARN, "ulimit"), (256, 256, State.WARN, "conf")],
)
def test_open_files_against_calls(soft: int, hard: int, state: State, mend: str) -> None:
    found = checks.check_files(WANTED, host(files_soft=soft, files_hard=hard))

    assert (found.state, mend in found.mend) == (state, True)


@pytest.mark.parametrize(
    ("free", "running", "state"),
    [
        (4 << 30, False, State.OK),
        (320 << 20, False, State.WARN),
        (100 << 20, False, State.FAIL),
        (100 << 20, True, State.OK),
        (10 << 20, True, State.WARN),
    ],
)
def test_memory_against_processes_and_calls(free: int, running: bool, state: State) -> None:
    assert checks.check_memory(WANTED, host(memory_bytes=free), running).state == state


@pytest.mark.parametrize(
    ("free", "running", "state"),
    [(64 << 20, False, State.OK), (1 << 20, False, State.FAIL), (0, True, State.OK)],
)
def test_shared_memory_has_room_for_the_tables(free: int, running: bool, state: State) -> None:
    assert checks.check_shm(WANTED, host(shm_free_bytes=free), running).state == state


@pytest.mark.parametrize(
    ("cores", "transceivers", "relays", "state"),
    [(2, 2, 2, State.OK), (1, 1, 2, State.OK), (0.5, 1, 2, State.OK), (2, 4, 2, State.WARN)],
)
def test_cores_against_processes(
    cores: float, transceivers: int, relays: int, state: State
) -> None:
    found = checks.check_cores(wanted(transceivers=transceivers, relays=relays), host(cores=cores))

    assert found.state == state


@pytest.mark.parametrize(
    ("governor", "driver", "state"),
    [
        ("performance", "acpi-cpufreq", State.OK),
        ("powersave", "acpi-cpufreq", State.WARN),
        ("powersave", "intel_pstate", State.OK),
    ],
)
def test_a_governor_that_keeps_cores_slow(governor: str, driver: str, state: State) -> None:
    found = checks.check_governor(host(governors=frozenset((governor,)), frequency_driver=driver))

    assert found.state == state
