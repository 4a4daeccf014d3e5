"""Looks at an instance that never ran, for what makes figures and pictures of them."""

from typing import Any

from voicerelay.cli.top.sample import Sample, Use

BOUNDS = (0.001, 0.01, 0.1)


def relay(index: int, **figures: Any) -> dict[str, Any]:
    return {
        "index": index,
        "pid": 100 + index,
        "uptime_s": 60.0,
        "heartbeat_ms": 10.0,
        "compiled": 1,
        "sockets_read": 1,
        "packets_received": 0,
        "packets_forwarded": 0,
        "socket_overflows": 0,
        "dropped": {"unknown_flow": 0, "queue_full": 0},
    } | figures


def transceiver(slot: int, **figures: Any) -> dict[str, Any]:
    return {
        "slot": slot,
        "pid": 200 + slot,
        "uptime_s": 60.0,
        "heartbeat_ms": 10.0,
        "sessions": 1,
        "max_sessions": 200,
        "overloaded": 0,
        "packets_received": 0,
        "packets_sent": 0,
        "socket_overflows": 0,
        "frame_lateness_p99_us": 1500,
        "loop_lag_us": 100,
        "dropped": {"srtp": 0, "queue_full": 0},
    } | figures


def session(number: int, **figures: Any) -> dict[str, Any]:
    return {
        "id": f"id-{number:06}",
        "short_id": f"{number:06}",
        "slot": 0,
        "state": "connected",
        "age_s": float(number),
        "codec": "opus",
        "rtt_ms": 20.0,
        "jitter_ms": 1.0,
        "packets_in": 1000,
        "packets_out": 1000,
        "lost_in": 0,
        "fraction_lost_out": 0.0,
    } | figures


def told(slot: int, counts: list[int], **figures: Any) -> dict[str, Any]:
    """What a transceiver says of itself; `counts` of late frames, by BOUNDS."""
    lateness = {"bounds": BOUNDS, "counts": counts, "sum": 0.0}
    return {"slot": slot, "pid": 200 + slot, "frame_lateness_s": lateness} | figures


def sample(
    at: float,
    relays: list[dict[str, Any]] | None = None,
    transceivers: list[dict[str, Any]] | None = None,
    sessions: list[dict[str, Any]] | None = None,
    use: dict[int, Use] | None = None,
    figures: dict[int, dict[str, Any]] | None = None,
) -> Sample:
    transceivers = [transceiver(0)] if transceivers is None else transceivers
    status = {
        "version": "1.2.3",
        "pid": 1,
        "app": "mine:app",
        "port": 3478,
        "listen": ["192.0.2.1"],
        "plane": "portable",
        "uptime_s": 3600.0,
        "relays": [relay(0)] if relays is None else relays,
        "transceivers": transceivers,
        "sessions": sum(one["sessions"] for one in transceivers),
    }
    return Sample(at, status, use or {}, figures or {}, sessions or [])
