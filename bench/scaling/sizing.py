"""From what was measured on one host to 1, 100 and 10,000: arithmetic on the files in bench/results."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "results"
PACKETS_PER_S = 50  # of a caller who talks; the same the other way
PACKET_BYTES = 172 + 28  # with UDP and IPv4
HEADROOM = 0.7  # of the calls a host could hold


@dataclass(frozen=True)
class Measured:
    """Of one host's parts. µs of CPU; KB of memory."""

    call_frame_us: float  # 20 ms of a call, both ways, in its transceiver
    relay_packet_us: float
    setup_us: float
    call_kb: float
    record_bytes: float


@dataclass(frozen=True)
class Host:
    cores: int
    calls: int
    relay_cores: float
    memory_gb: float
    mbit_each_way: float
    setups_per_s: float  # with calls of `mean_call_s`


def measured(results: Path = RESULTS) -> Measured:
    """Raises FileNotFoundError with the command to run."""
    voice, relay, setups, tables = (
        _load(results, name) for name in ("voice", "relay", "setups", "tables")
    )
    everyday = relay["contenders"]["portable"]["phases"]["everyday"]
    big = tables["starts"][-1]
    return Measured(
        call_frame_us=_frame_us(voice),
        relay_packet_us=everyday["relay_us"]["median"],
        setup_us=setups["transceiver_us"] + setups["relay_us"] + setups["control_us"],
        call_kb=_call_kb(voice),
        record_bytes=big["memory_mib"] * (1 << 20) / big["capacity"],
    )


def host(parts: Measured, cores: int, mean_call_s: float) -> Host:
    """What `cores` hold at HEADROOM, relays, set-ups and voice sharing them."""
    per_call = (
        parts.call_frame_us * PACKETS_PER_S
        + parts.relay_packet_us * PACKETS_PER_S
        + parts.setup_us / mean_call_s
    ) / 1e6  # cores
    calls = int(cores * HEADROOM / per_call)
    return Host(
        cores,
        calls,
        calls * parts.relay_packet_us * PACKETS_PER_S / 1e6,
        calls * parts.call_kb / 1e6,
        calls * PACKETS_PER_S * PACKET_BYTES * 8 / 1e6,
        calls / mean_call_s,
    )


def _load(results: Path, name: str) -> Any:
    path = results / f"{name}.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: run `python bench/{name}` with its option to keep"
        )
    return json.loads(path.read_text())


def _frame_us(voice: Any) -> float:
    return float(voice["costs"]["ours"]["frame_us"]["median"])


def _call_kb(voice: Any) -> float:
    return float(voice["costs"]["ours"]["rss_kb_per_call"]["median"])
