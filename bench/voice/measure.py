"""One contender, measured: CPU of 20 ms of a call, and whether it holds as many calls as that says."""

import json
import subprocess
import sys
from typing import Any

from bench.voice.caller import ROOT, Talk
from bench.voice.contenders import HERE, Contender, Cores, talk_to
from voicerelay.transceiver.voice.lateness import WINDOW_S, WINDOWS

FRAME_US = 20_000
WARM_CALLS, WARM_S = 4, 1.0
MEMORY_S = WINDOWS * WINDOW_S  # of the pacer
SETTLE_S = 1.5  # of every talk, before it counts
FLOOR_CALLS = 40  # as many as ours is measured with
FLOOR_FRAMES = 60  # of each call

Figures = dict[str, float]


def floor(calls: int, cores: Cores, brief: bool = False) -> Figures:
    """See floor.py. brief: `floor_us` alone."""
    settings = {
        "calls": calls,
        "frames": FLOOR_FRAMES,
        "brief": brief,
        "cpu": cores.tested,
        "others": cores.others,
        "priority": cores.priority,
    }
    done = subprocess.run(
        [sys.executable, "-P", str(HERE / "floor.py"), json.dumps(settings)],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
    )
    figures: Figures = json.loads(done.stdout)
    return figures


def talk_between_floors(contender: Contender, calls: int, seconds: float, cores: Cores) -> Figures:
    """As `talk`, and beside it what the floor took just before and after: a machine's speed drifts.

    `floors`: CPU of a frame by the mean of the two.
    """
    before = floor(FLOOR_CALLS, cores, brief=True)["floor_us"]
    figures = talk(contender, calls, seconds, cores)
    after = floor(FLOOR_CALLS, cores, brief=True)["floor_us"]
    figures["floor_us"] = (before + after) / 2
    figures["floors"] = figures["frame_us"] / figures["floor_us"]
    return figures


def talk(contender: Contender, calls: int, seconds: float, cores: Cores) -> Figures:
    """So many calls for so long; every figure is of the window after the first SETTLE_S."""
    with contender.start(cores) as running:
        talk_to(running, cores, Talk("", WARM_CALLS, 0.2, WARM_S))
        raw = talk_to(running, cores, Talk("", calls, SETTLE_S, seconds))
        # Each line is of the last MEMORY_S: those that know of the set-up do not count.
        since = min(raw["began"] + MEMORY_S, raw["ended"] - 1.0)
        pacer = running.lateness(since, raw["ended"])
        beside = {
            f"{name}_us": raw["cpu_s"][str(pid)] / _frames(raw) * 1e6
            for name, pid in running.beside.items()
        }
        pid = str(running.charged)
    sizes, empty = raw["sizes"][pid], raw["sizes_before"][pid]
    cpu_s = raw["cpu_s"][pid]
    names = (
        "rate_in_min",
        "rate_in_max",
        "rate_out_min",
        "out_of_line",
        "not_authentic",
        "jitter_p50_ms",
        "jitter_p99_ms",
        "likeness",
        "caller_lag_p99_ms",
    )
    figures = {
        "calls": calls,
        "frame_us": cpu_s / _frames(raw) * 1e6,
        "busy": cpu_s / raw["window_s"],
        "missing": 1 - raw["frames_in"] / raw["frames_out"],
        "rss_kb_per_call": (sizes["rss_bytes"] - empty["rss_bytes"]) / calls / 1024,
        "threads": sizes["threads"],
        "fds": sizes["fds"],
        **{name: raw[name] for name in names if raw[name] is not None},
        **beside,
    }
    figures["calls_per_core"] = FRAME_US / figures["frame_us"]
    if pacer:
        figures["late_p50_ms"] = max(line["p50_ms"] for line in pacer)
        figures["late_p99_ms"] = max(line["p99_ms"] for line in pacer)
        figures["skipped"] = pacer[-1]["skipped"] - pacer[0]["skipped"]
    return figures


def _frames(raw: dict[str, Any]) -> float:
    """20 ms of a call, as many as really went through: both directions count half."""
    return float(raw["frames_in"] + raw["frames_out"]) / 2
