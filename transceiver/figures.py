"""What this transceiver has seen so far, for operators: totals, histograms, and each call's own figures."""

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from voicerelay.shm.path import unpack_path
from voicerelay.transceiver.histogram import Histogram, coarser
from voicerelay.transceiver.milestones import PHASES, Milestone
from voicerelay.transceiver.session import LiveSession
from voicerelay.transceiver.voice.lateness import BUCKET_S
from voicerelay.transceiver.voice.pacer import Pacer

SETUP_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LAG_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
LATENESS_BOUNDS_S = (0.0005, 0.001, 0.0015, 0.003, 0.005, 0.01, 0.02, 0.04)
RTT_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
CODEC = "opus"  # the only one that is agreed
MASKED_V4_BITS, MASKED_V6_BITS = 24, 48

# Paths of the contracts, the longest first where one begins another.
_CONTRACTS = (
    ("/whip", "whip"),
    ("/whep", "whep"),
    ("/v1/realtime", "openai-realtime"),
    ("/webrtc/offer", "fastrtc"),
    ("/api/offer", "pipecat"),
    ("/sessions/", "pipecat"),
)


@dataclass(slots=True)
class Media:
    """RTP of calls: packets and octets of payload; lost: as we saw it, and as clients reported it."""

    packets_in: int = 0
    packets_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    lost_in: int = 0
    lost_out: int = 0

    def add(self, other: "Media") -> None:
        self.packets_in += other.packets_in
        self.packets_out += other.packets_out
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        self.lost_in += other.lost_in
        self.lost_out += other.lost_out


class Figures:
    """Since the process began. `look` once a second for each call, `left` once at its end."""

    def __init__(self) -> None:
        self.setup = {phase: Histogram(SETUP_BOUNDS_S) for phase in PHASES}
        self.loop_lag = Histogram(LAG_BOUNDS_S)
        self.rtt = Histogram(RTT_BOUNDS_S)
        self.ended: Counter[str] = Counter()  # by reason
        self.on_left: Callable[[LiveSession], None] = lambda session: None
        self._gone = Media()

    def look(self, session: LiveSession) -> None:
        """Take in what is new of a call."""
        voice = session.voice
        if voice is not None:
            if voice.heard_at is not None:
                session.milestones.reach(Milestone.HEARD, voice.heard_at)
            if voice.rtt_s is not None:
                self.rtt.observe(voice.rtt_s)
        for phase, took_s in session.milestones.news().items():
            self.setup[phase].observe(took_s)

    def left(self, session: LiveSession) -> None:
        """A call has ended."""
        self.look(session)
        self._gone.add(media(session))
        self.count_end(session.end_reason)
        self.on_left(session)

    def count_end(self, reason: str) -> None:
        """A call has ended for this reason; what an operator wrote stands behind a colon."""
        self.ended[reason.partition(":")[0]] += 1

    def snapshot(self, sessions: Iterable[LiveSession], pacer: Pacer) -> dict[str, Any]:
        """All of it as JSON has it; `sessions`: those that have not left."""
        total = Media()
        total.add(self._gone)
        for session in sessions:
            total.add(media(session))
        lateness = coarser(pacer.lateness_counts(), BUCKET_S, LATENESS_BOUNDS_S)
        return {
            "setup_s": {phase: made.snapshot() for phase, made in self.setup.items()},
            "loop_lag_s": self.loop_lag.snapshot(),
            "frame_lateness_s": lateness.snapshot(),
            "rtt_s": self.rtt.snapshot(),
            "rtp": asdict(total),
            "ended": dict(self.ended),
            "frames": pacer.frames,
            "frames_skipped": pacer.frames_skipped,
            "load_level": pacer.load_level,
        }


def media(session: LiveSession) -> Media:
    """What has gone through a call so far."""
    voice = session.voice
    if voice is None:
        return Media()
    return Media(
        session.packets_in,
        voice.sent,
        voice.octets_in,
        voice.sent_octets,
        voice.lost_in,
        max(0, voice.remote_lost),
    )


def vitals(session: LiveSession, now: float) -> dict[str, Any]:
    """One call for an operator: no full address, no SDP, no keys, nothing that was said."""
    stats, path = session.stats(), session.selected_path
    return asdict(media(session)) | {
        "id": session.id,
        "short_id": session.short_id,
        "state": session.state.value,
        "age_s": round(session.milestones.age_s(now), 1),
        "codec": CODEC if session.voice is not None else None,
        "rtt_ms": stats.rtt_ms,
        "jitter_ms": stats.jitter_ms,
        "fraction_lost_out": round(stats.fraction_lost_out, 4),
        "concealed_ms": stats.concealed_ms,
        "unread_ms": stats.unread_ms,
        "contract": contract_of(session.request.path),
        "client": masked(unpack_path(path)[1]) if path is not None else None,
        "key": session.request.key,
        "relay": session.relay,
        "setup_ms": {
            phase: round(took_s * 1000, 1) for phase, took_s in session.milestones.phases().items()
        },
    }


def contract_of(path: str) -> str:
    """The contract that a call began by."""
    return next((name for start, name in _CONTRACTS if path.startswith(start)), "other")


@lru_cache(maxsize=1024)
def masked(host: str) -> str:
    """An address without the part that tells one customer of a provider from another."""
    address = ipaddress.ip_address(host)
    bits = MASKED_V4_BITS if address.version == 4 else MASKED_V6_BITS
    return str(ipaddress.ip_network((address, bits), strict=False))
