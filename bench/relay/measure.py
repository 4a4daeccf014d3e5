"""One phase of one contender: runs the load generator and turns its counts into figures per packet."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.relay.world import FIRST_CLIENT, Flows, Target

PACKET_BYTES = 172  # 20 ms of G.711 or of good Opus
MAX_MEASURE_CPUS = 16
_FAULTS = ("lost", "duplicates", "misdelivered", "reordered", "bad")


@dataclass(frozen=True)
class Phase:
    """`rate`: packets a second, 0 for as many as the relay takes. `count`: an exact number."""

    key: str
    rate: float
    seconds: float
    warm_s: float = 0.4
    count: int = 0
    window: int | None = None  # packets under way at most; None: the contender's own


@dataclass(frozen=True)
class Bench:
    """What stays the same over all phases."""

    loadgen: Path
    scratch: Path
    cpu: int
    flows: Flows


def run_phase(bench: Bench, target: Target, phase: Phase, stun_percent: int) -> dict[str, float]:
    """Figures of one run: µs of CPU a packet, packets/s, latencies in µs, and what went wrong."""
    ufrags = bench.scratch / "ufrags"
    ufrags.write_bytes(b"".join(ufrag + b"\n" for ufrag in target.ufrags))
    pids = target.relay_pids + target.other_pids
    command = [str(bench.loadgen)]
    for host, port in target.addresses:
        command += ["--to", f"{host}:{port}"]
    options = {
        "sink-fds": ",".join(str(sink.fileno()) for sink in target.sinks),
        "base": ".".join(str(byte) for byte in FIRST_CLIENT.to_bytes(4, "big")),
        "port": bench.flows.port,
        "flows": bench.flows.count,
        "bytes": PACKET_BYTES,
        "stun": stun_percent,
        "ufrags": ufrags,
        "rate": phase.rate,
        "window": phase.window or (8192 if phase.rate else target.window),
        "count": phase.count,
        "warm": phase.warm_s,
        "seconds": phase.seconds,
        "cpu": bench.cpu,
    }
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    if target.holdable and not phase.rate:
        command += ["--hold", str(len(target.relay_pids))]
    command += ["--framed"] if target.framed else []
    command += ["--channel-data"] if target.channel_data else []
    command += ["--pids", ",".join(map(str, pids))] if pids else []
    before = _user_and_system(target.relay_pids)
    done = subprocess.run(
        command,
        pass_fds=[sink.fileno() for sink in target.sinks],
        capture_output=True,
        text=True,
        check=False,
        timeout=phase.warm_s + phase.seconds + (600 if phase.count else 30),
    )
    if done.returncode:
        raise SystemExit(f"the load generator failed: {done.stderr.strip() or done.returncode}")
    after = _user_and_system(target.relay_pids)
    user, system = (end - start for start, end in zip(before, after, strict=True))
    raw = json.loads(done.stdout)
    return _figures(raw, len(target.relay_pids)) | {
        "relay_user_share": user / (user + system) if user + system else 0.0
    }


def _user_and_system(pids: list[int]) -> tuple[float, float]:
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(t.user for t in times), sum(t.system for t in times)


def _figures(raw: dict[str, Any], relays: int) -> dict[str, float]:
    packets = max(raw["window_delivered"], 1)
    elapsed = raw["elapsed_s"]
    running = elapsed - raw["held_s"]  # the relay was stopped meanwhile
    relay_s = sum(raw["pid_cpu_s"][:relays])
    other_s = sum(raw["pid_cpu_s"][relays:])
    ends_s = raw["send_cpu_s"] + raw["sink_cpu_s"]
    # The generator polls without rest; the machine's time is counted without that.
    machine_s = max(raw["machine_busy_s"] - (raw["self_cpu_s"] - ends_s), 0.0)
    figures = {
        "relay_us": relay_s / packets * 1e6,
        "path_us": (relay_s + other_s + ends_s) / packets * 1e6,
        "send_us": raw["send_cpu_s"] / max(raw["window_sent"], 1) * 1e6,
        "sink_us": raw["sink_cpu_s"] / packets * 1e6,
        "machine_us": machine_s / packets * 1e6,
        "packets_per_s": packets / running,
        "packets_per_read": packets / max(raw["window_reads"], 1),
        "relay_busy": relay_s / running,
        "starved": raw["starved"],
        "others": max(machine_s - relay_s - other_s - ends_s, 0.0) / elapsed,  # cores, not ours
        "steal": raw["machine_steal_s"] / elapsed,
        "sent": raw["sent"],
        "lost": raw["sent"] - raw["delivered"],
        "per_sink_min": min(raw["per_sink"]),
        "per_sink_max": max(raw["per_sink"]),
    }
    for name in ("p50_us", "p99_us", "p999_us", "max_us", "samples"):
        if name in raw:
            figures[name] = raw[name]
    for name in _FAULTS[1:]:
        figures[name] = raw[name]
    return figures


def faults(figures: dict[str, float]) -> dict[str, int]:
    """What must be zero, where it is not."""
    return {name: int(figures[name]) for name in _FAULTS if figures[name]}
