"""Judges the host: kernel steering, clock, limits, memory, cores."""

from voicerelay.cli.doctor.facts import HostFacts, KernelFacts, Wanted
from voicerelay.cli.doctor.finding import Finding, fail, ok, warn
from voicerelay.shm.counters import COUNTERS_BYTES
from voicerelay.shm.region import Sizes

FAST_CLOCKS = frozenset(("tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page"))
FILES_BASE = 256  # sockets, shared memory, libraries, other processes' links
FILES_PER_CALL = 2  # its client's HTTP connection, and a backend's
TRANSCEIVER_BYTES = 90 << 20  # without a call, and without what the application imports
OTHER_PROCESS_BYTES = 30 << 20  # a relay, control, the supervisor
CALL_BYTES = 128 << 10  # bench/setups.py measures less; the agent's own comes on top
CONTROL_BYTES_PER_CALL = 370  # of --capacity
# These drivers' "powersave" follows the load in hardware.
HARDWARE_DRIVERS = frozenset(("intel_pstate", "amd-pstate-epp"))
CAPABILITIES = {
    "CAP_BPF": "kernel steering",
    "CAP_NET_ADMIN": "receive buffers above rmem_max",
}


def check_kernel(wanted: Wanted, seen: KernelFacts) -> list[Finding]:
    return [
        check_capabilities(wanted, seen),
        check_steering(wanted, seen),
        check_pins(wanted, seen),
        check_loop(seen),
        check_voice(seen),
    ]


def check_host(wanted: Wanted, seen: HostFacts, running: bool) -> list[Finding]:
    """`running`: the instance already has its tables and processes."""
    return [
        check_clock_source(seen),
        check_synchronised(seen),
        check_files(wanted, seen),
        check_memory(wanted, seen, running),
        check_shm(wanted, seen, running),
        check_cores(wanted, seen),
        check_governor(seen),
    ]


def check_capabilities(wanted: Wanted, seen: KernelFacts) -> Finding:
    """Both are optional: what is missing costs speed, not calls."""
    name = "capabilities"
    has = [cap for cap in CAPABILITIES if cap in seen.capabilities]
    lacks = [f"{cap} ({use})" for cap, use in CAPABILITIES.items() if cap not in seen.capabilities]
    told = [f"this user has {', '.join(has)}"] if has else []
    told += [f"without {', '.join(lacks)}"] if lacks else []
    return ok(name, "; ".join(told))


def check_steering(wanted: Wanted, seen: KernelFacts) -> Finding:
    """Whether the program really loads and attaches, tried on sockets of its own."""
    name = "kernel steering"
    if wanted.steering == "off":
        return ok(name, "--steering is off")
    if not seen.steering_obstacle:
        return ok(name, f"the program loads and attaches, kernel {seen.release}")
    text = f"not here, kernel {seen.release}: {seen.steering_obstacle}"
    if wanted.steering == "on":
        return fail(name, text, _mend_steering(seen) + "; or --steering auto")
    return warn(name, f"{text}; calls go through the relays", _mend_steering(seen))


def _mend_steering(seen: KernelFacts) -> str:
    what = seen.steering_obstacle
    if "libbpf" in what and "built" not in what:
        return "apt-get install libbpf1"
    if "built" in what:
        return (
            "apt-get install clang libbpf-dev && pip install --force-reinstall --no-deps voicerelay"
        )
    if "permission" in what:
        return "run as root, or with AmbientCapabilities=CAP_BPF (systemd)"
    return "voicerelay start --steering off   # silences this"


def check_pins(wanted: Wanted, seen: KernelFacts) -> Finding:
    """Pins let a fresh process reopen the maps by name; without them, steering works all the same."""
    name = "bpffs"
    if wanted.steering == "off" or seen.steering_obstacle:
        return ok(name, "not used")
    if not seen.pin_obstacle:
        return ok(name, "mounted at /sys/fs/bpf, may be written")
    return warn(name, seen.pin_obstacle, "mount -t bpf bpf /sys/fs/bpf")


def check_loop(seen: KernelFacts) -> Finding:
    return _in_c("relay loop", "at twice the cost", seen.loop_obstacle)


def check_voice(seen: KernelFacts) -> Finding:
    return _in_c("voice path", "with fewer calls on a core", seen.voice_obstacle)


def _in_c(name: str, instead: str, obstacle: str) -> Finding:
    if not obstacle:
        return ok(name, "in C")
    return warn(
        name,
        f"in Python, {instead}: {obstacle}",
        "apt-get install gcc && pip install --force-reinstall --no-deps voicerelay",
    )


def check_clock_source(seen: HostFacts) -> Finding:
    """Every wait and every frame reads the monotonic clock."""
    name = "clock"
    if seen.clock_source in FAST_CLOCKS or not seen.clock_source:
        return ok(name, f"monotonic by {seen.clock_source or 'a source that is not told'}")
    better = next((source for source in seen.clock_sources if source in FAST_CLOCKS), "")
    path = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
    return warn(
        name,
        f"monotonic by {seen.clock_source}, which is slow to read",
        f"echo {better} > {path}" if better else "boot with tsc=reliable, if the host's TSC is",
    )


def check_synchronised(seen: HostFacts) -> Finding:
    """Calls need no wall clock; tokens' expiry and the times of records do."""
    name = "time of day"
    if seen.synchronised is None:
        return ok(name, "the kernel does not tell whether it is synchronised")
    if seen.synchronised:
        return ok(name, f"synchronised, wrong by {seen.clock_error_us / 1000:.0f} ms at most")
    return warn(
        name,
        "not synchronised: tokens expire, and records are dated, by a clock that drifts",
        "timedatectl set-ntp true",
    )


def check_files(wanted: Wanted, seen: HostFacts) -> Finding:
    name = "open files"
    need = FILES_BASE + wanted.max_sessions * FILES_PER_CALL
    text = f"limit {seen.files_soft}; {wanted.max_sessions} calls of a transceiver need {need}"
    if seen.files_soft >= need:
        return ok(name, text)
    if seen.files_hard >= need:
        return warn(name, text, f"ulimit -n {need}   # systemd: LimitNOFILE={need}")
    return warn(name, text, f"LimitNOFILE={need} (systemd) or /etc/security/limits.conf")


def check_memory(wanted: Wanted, seen: HostFacts, running: bool) -> Finding:
    """`memory_bytes`: what is free now, so of a running instance only the calls are counted."""
    name = "memory"
    base = 0 if running else _base_bytes(wanted)
    need = base + wanted.sessions * CALL_BYTES
    text = (
        f"{seen.memory_bytes >> 20} MiB free; {wanted.sessions} calls need {need >> 20} MiB "
        "and what the agent needs"
    )
    mend = "more memory, or less of --max-sessions, --capacity, --transceivers"
    if seen.memory_bytes < base:
        return fail(name, text, mend)
    return ok(name, text) if seen.memory_bytes >= need else warn(name, text, mend)


def _base_bytes(wanted: Wanted) -> int:
    processes = wanted.transceivers * TRANSCEIVER_BYTES
    processes += (wanted.relays + 2) * OTHER_PROCESS_BYTES
    return processes + _tables_bytes(wanted) + wanted.capacity * CONTROL_BYTES_PER_CALL


def _tables_bytes(wanted: Wanted) -> int:
    return Sizes.for_capacity(wanted.capacity).total_bytes + COUNTERS_BYTES


def check_shm(wanted: Wanted, seen: HostFacts, running: bool) -> Finding:
    name, need = "/dev/shm", _tables_bytes(wanted)
    if running:
        return ok(name, "the instance that runs has its tables")
    text = (
        f"{seen.shm_free_bytes >> 20} MiB free; --capacity {wanted.capacity} needs {need >> 20} MiB"
    )
    if seen.shm_free_bytes >= need:
        return ok(name, text)
    return fail(name, text, "mount -o remount,size=50% /dev/shm   # docker: --shm-size")


def check_cores(wanted: Wanted, seen: HostFacts) -> Finding:
    """A transceiver that shares its core sends frames late sooner."""
    name = "cores"
    text = f"{seen.cores:g} for {wanted.transceivers} transceivers and {wanted.relays} relays"
    if wanted.transceivers <= max(1, seen.cores) and wanted.relays <= max(2, seen.cores):
        return ok(name, text)
    cores = max(1, int(seen.cores))
    relays = min(wanted.relays, max(2, cores))
    return warn(name, text, f"voicerelay start --transceivers {cores} --relays {relays}")


def check_governor(seen: HostFacts) -> Finding:
    name = "frequency"
    if not seen.governors:
        return ok(name, "the host's matter")
    shown = ", ".join(sorted(seen.governors))
    if "powersave" in seen.governors and seen.frequency_driver not in HARDWARE_DRIVERS:
        text = f"governor {shown}: cores stay slow, frames come late"
        return warn(name, text, "cpupower frequency-set -g performance")
    return ok(name, f"governor {shown}")
