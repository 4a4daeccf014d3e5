"""What the agent sees of a call: hearing, speaking, messages and figures. How it is carried is the session's."""

import time
from abc import abstractmethod

from voicerelay.transceiver.agent import (
    DEFAULT_LISTEN_RATE,
    DEFAULT_PLAY_RATE,
    AudioPacket,
    ChannelHandler,
    Message,
    Request,
    Session,
    SessionClosed,
    Speech,
    Stats,
)
from voicerelay.transceiver.channels import Channels, DataChannel, Dialect
from voicerelay.transceiver.voice.hearing import Hearing
from voicerelay.transceiver.voice.opus import FRAME_S, Pcm
from voicerelay.transceiver.voice.pacer import Pacer
from voicerelay.transceiver.voice.path import CLOCK_RATE_HZ, VoicePath
from voicerelay.transceiver.voice.pcm import PcmLike
from voicerelay.transceiver.voice.speaking import Speaking
from voicerelay.transceiver.voice.unread import Unread

FRAME_MS = round(FRAME_S * 1000)


class Conversation(Session):
    """The agent's half of a session. `voice` is there once media has keys."""

    def __init__(self, public_id: str, pacer: Pacer, request: Request) -> None:
        self._id = public_id
        self.request = request
        self.begun_at = time.monotonic()
        self._voice: VoicePath | None = None
        self._hearing = Hearing()
        self._speaking = Speaking(self.short_id, pacer, self)
        self._channels = Channels()

    @abstractmethod
    def end(self, reason: str) -> None:
        """End the call, once."""

    @property
    @abstractmethod
    def sending(self) -> bool:
        """Whether media may be sent now."""

    @abstractmethod
    def send_protected(self, data: bytes, rtcp: bool) -> None:
        """Encrypt RTP or RTCP and send it to the client."""

    @property
    def id(self) -> str:
        return self._id

    @property
    def short_id(self) -> str:
        """Enough to find the session in a log, too little to end it."""
        return self._id[-6:]

    @property
    def packets_in(self) -> int:
        """Of RTP, so far."""
        return self._hearing.packets_in

    @property
    def voice(self) -> VoicePath | None:
        """The RTP of the call, once media has keys."""
        return self._voice

    def listen(self, rate: int = DEFAULT_LISTEN_RATE) -> Unread[Pcm]:
        return self._hearing.listen(rate)

    def speech(self) -> Unread[Speech]:
        return self._hearing.speech()

    def packets(self) -> Unread[AudioPacket]:
        return self._hearing.packets()

    async def play(self, pcm: PcmLike, rate: int = DEFAULT_PLAY_RATE) -> None:
        await self._speaking.play(pcm, rate)

    def interrupt(self) -> int:
        return self._speaking.interrupt()

    async def drain(self) -> None:
        await self._speaking.drain()

    def messages(self) -> Unread[Message]:
        return self._channels.unread

    def send_message(self, data: str | bytes, channel: str | None = None) -> None:
        if self._channels.closed:
            raise SessionClosed("the call has ended")
        self._channels.send(data, channel)

    def handle_channel(self, label: str, handler: ChannelHandler) -> None:
        self._channels.handle(label, handler)

    def channel_handler(self, label: str) -> ChannelHandler | None:
        return self._channels.handler(label)

    def tap(self, channel: DataChannel) -> bool:
        """Somebody beside the client joins a data channel; False when too many have."""
        return self._channels.tap(channel)

    def untap(self, channel: DataChannel) -> None:
        self._channels.untap(channel)

    def send(self, packet: AudioPacket) -> None:
        if self.sending and self._voice is not None:
            self.send_protected(self._voice.packetize(packet, time.monotonic()), rtcp=False)

    def send_frame(self, payload: bytes, due: float) -> None:
        """20 ms of the agent's voice, encoded."""
        if self.sending and self._voice is not None:
            self.send_protected(self._voice.frame(payload, due), rtcp=False)

    def stats(self) -> Stats:
        voice, hearing, outbound = self._voice, self._hearing, self._speaking.outbound
        inbound, mended = voice.inbound if voice else None, hearing.mended()
        return Stats(
            duration_s=round(time.monotonic() - self.begun_at, 3),
            packets_in=self.packets_in,
            packets_out=voice.sent if voice else 0,
            packets_lost_in=voice.lost_in if voice else 0,
            recovered_ms=mended.recovered_ms,
            concealed_ms=mended.concealed_ms,
            silent_ms=mended.silent_ms,
            unread_ms=FRAME_MS * (hearing.unread_frames() + hearing.unread_packets()),
            fraction_lost_out=voice.remote_fraction_lost if voice else 0.0,
            rtt_ms=round(voice.rtt_s * 1000, 1) if voice and voice.rtt_s is not None else None,
            jitter_ms=round(inbound.jitter * 1000 / CLOCK_RATE_HZ, 1) if inbound else None,
            frames_played=outbound.frames,
            played_ms=outbound.total_played_ms,
            interrupted_ms=outbound.interrupted_ms,
            messages_unread=self._channels.unread.dropped,
        )

    def use(self, dialect: Dialect) -> None:
        """Let a contract speak over the data channels too."""
        self._channels.dialect = dialect

    def close(self) -> None:
        self.end("closed by the agent")

    def hang_up(self) -> None:
        """The call has ended: every iteration ends, nothing waits any more."""
        self._speaking.close()
        self._hearing.close()
        self._channels.close()
