"""An instance as one look shows it, for tests of what is made of it."""

from typing import Any

from voicerelay.cli.admin.snapshot import Snapshot
from voicerelay.shm.counters import ControlCounter, RelayCounter, TransceiverCounter
from voicerelay.transceiver.figures import Figures, Media

MARKUP = "<img src=x onerror=alert(1)>"


def process(names: Any, pid: int, **more: Any) -> dict[str, Any]:
    words = [name.lower() for name in names.__members__]
    made: dict[str, Any] = {w: 1 for w in words if not w.startswith("dropped")}
    drops = {w.removeprefix("dropped_"): 1 for w in words if w.startswith("dropped")}
    made |= {"pid": pid, "alive": True, "heartbeat_ms": 1.0, "generation": pid, "overloaded": 0}
    return made | ({"dropped": drops} if drops else {}) | more


class NoPacer:
    """Of a transceiver where nobody has spoken."""

    frames = frames_skipped = load_level = 0

    def lateness_counts(self) -> list[int]:
        return [3, 0, 0, 0, 1]


def figures(pid: int, observed: float = 0.03, **more: Any) -> dict[str, Any]:
    seen = Figures()
    for histogram in (*seen.setup.values(), seen.loop_lag, seen.rtt):
        histogram.observe(observed)
    seen.ended["hung up"] = 2
    seen.ended["ended by the operator"] = 3
    seen.ended[MARKUP] = 1
    seen._gone.add(Media(100, 90, 8000, 7200, 4, 3))
    told = seen.snapshot([], NoPacer())  # type: ignore[arg-type]
    return told | {"pid": pid, "generation": pid, "agent": "mine:app", "draining": False} | more


def call(short_id: str = "abcdef", slot: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "id": f"the-whole-id-{short_id}",
        "short_id": short_id,
        "slot": slot,
        "relay": 0,
        "state": "connected",
        "age_s": 3.0,
        "contract": "whip",
        "client": "192.0.2.0/24",
        "codec": "opus",
        "key": "",
        "rtt_ms": 20.0,
        "jitter_ms": 1.0,
        "packets_in": 100,
        "packets_out": 100,
        "lost_in": 0,
        "lost_out": 0,
        "fraction_lost_out": 0.0,
        "concealed_ms": 0,
        "setup_ms": {},
    } | more


def look(
    relays: tuple[int, ...] = (10, 11),
    transceivers: tuple[int, ...] = (20,),
    calls: list[dict[str, Any]] | None = None,
    **status: Any,
) -> Snapshot:
    """Pids of relays and transceivers, each in its place."""
    made = [process(RelayCounter, pid, index=i) for i, pid in enumerate(relays)]
    owners = [
        process(TransceiverCounter, pid, slot=i, max_sessions=9, draining=0)
        for i, pid in enumerate(transceivers)
    ]
    described: dict[str, Any] = {
        "version": "0.1",
        "app": "mine:app",
        "port": 3478,
        "listen": ["127.0.0.1"],
        "http": "127.0.0.1:8080",
        "plane": "portable",
        "sockets": len(relays),
        "capacity": 16,
        "control": process(ControlCounter, 5),
        "relays": made,
        "transceivers": owners,
        "routes": 3,
        "flows": 4,
        "dropped": {"unknown_flow": 9, "empty": 0},
    }
    told = {i: figures(pid) for i, pid in enumerate(transceivers)}
    return Snapshot(1.0, described | status, told, calls or [])
