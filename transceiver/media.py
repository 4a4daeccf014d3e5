"""The RTP of one session: what comes is decrypted, counted and heard; what is said goes by the same path."""

import logging
import time
from typing import Any

from voicerelay.shm.counters import TransceiverCounter
from voicerelay.transceiver.ice import never
from voicerelay.transceiver.mux import Mux
from voicerelay.transceiver.reach import Reach
from voicerelay.transceiver.seam import Peer
from voicerelay.transceiver.voice import rtp
from voicerelay.transceiver.voice.hearing import Hearing
from voicerelay.transceiver.voice.line import ffi
from voicerelay.transceiver.voice.opus import Pcm
from voicerelay.transceiver.voice.path import REPORT_INTERVAL_S, VoicePath
from voicerelay.transceiver.voice.speaking import Speaking
from voicerelay.transceiver.voice.srtp import Keyed

log = logging.getLogger("voicerelay.session")


class Media:
    """`voice` is there once there are keys. The engine takes what it can of both ways, as its Owner says."""

    def __init__(
        self,
        short_id: str,
        mux: Mux,
        reach: Reach,
        hearing: Hearing,
        speaking: Speaking,
    ) -> None:
        self._short_id = short_id
        self._mux = mux
        self._ice = reach.ice
        self._hearing = hearing
        self._speaking = speaking
        self.voice: VoicePath | None = None
        self._peer: Peer | None = None  # whose keys the engine has
        self._reported_at = 0.0

    def begin(self, peer: Peer, payload_type: int, ssrc: int) -> VoicePath:
        """There are keys, of a first or of another peer connection."""
        self._peer = peer
        self.voice = voice = VoicePath(ssrc, payload_type, self._short_id)
        self._ice.media_heard = self._media_at
        voice.line.ear, self._speaking.mouth.line = self._hearing.ear, voice.line
        self.follow()
        return voice

    def end(self) -> None:
        """The keys are void: another peer connection is about to have some, or nobody."""
        if self._peer is not None and self.voice is not None:
            self._peer, self._speaking.mouth.line = None, ffi.NULL
            self._mux.engine.connect(self.voice.line, self, None)
            self._ice.media_heard = never

    def follow(self) -> None:
        """To be called when the selected path, or the direction of media, may have changed."""
        peer, voice = self._peer, self.voice
        if peer is not None and voice is not None:
            line = voice.line
            line.rx, line.tx = _pointer(peer.rx()), _pointer(peer.tx() if peer.sends else None)
            self._mux.engine.connect(line, self, self._ice.selected)

    def take(self, peer: Peer, data: bytes, path: bytes) -> bool:
        """SRTP or SRTCP; False when it is not authentic, or not what it should be."""
        rtcp = rtp.is_rtcp(data)
        plain = peer.unprotect(data, rtcp)
        if plain is None:
            return False
        now, voice = time.monotonic(), self.voice
        if self._ice.media(path, now):
            log.info("session %s moved: its media comes from another address", self._short_id)
            self.follow()
        if voice is None:
            return False
        try:
            if rtcp:
                self._take_reports(voice, plain, now)
            else:
                self._mux.put_off(self._hear, voice.receive(plain, now), now)
        except rtp.RtpError:
            return False
        return True

    def report(self, now: float) -> bytes | None:
        """RTCP to be sent, when some is due; called about once a second."""
        if self.voice is None or now - self._reported_at <= REPORT_INTERVAL_S:
            return None
        self._reported_at = now
        return self.voice.report(now, time.time())

    # ---- from the engine -----------------------------------------------------------------------

    def heard(self, frame: Pcm) -> None:
        self._hearing.heard(frame)

    def opened(self, data: bytes, at: float) -> None:
        assert self.voice is not None
        try:
            packet = self.voice.receive(data, at)
        except rtp.RtpError:
            self._mux.drop(TransceiverCounter.DROPPED_SRTP)
        else:
            self._hear(packet, at)

    def _hear(self, packet: rtp.RtpPacket, now: float) -> None:
        self._mux.count(self._hearing.receive(packet, now))

    def _take_reports(self, voice: VoicePath, plain: bytes, now: float) -> None:
        before = voice.remote_reports
        voice.receive_rtcp(plain, now, time.time())
        self._mux.delivered()
        if voice.remote_reports != before:
            self._speaking.outbound.loss_reported(voice.remote_fraction_lost)

    def _media_at(self) -> float:
        """When the engine last took media from the selected path; 0.0 when it never did."""
        return float(self.voice.line.media_at) if self.voice is not None else 0.0


def _pointer(keyed: Keyed | None) -> Any:
    return ffi.cast("void *", keyed.state if keyed is not None else 0)
