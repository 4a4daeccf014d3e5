"""Between a call and a backend that speaks the Realtime WebSocket protocol: what each event causes. Pure.

The backend knows nothing of playing: it sends audio as fast as it makes it. What was really heard is known
here, so `output_audio_buffer.*` events and truncation are made here.
"""

import base64
import binascii
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from voicerelay.shm.counters import TransceiverCounter as Count
from voicerelay.transceiver.agent import Speech
from voicerelay.transceiver.realtime.oai import (
    AUDIO_EVENTS,
    Event,
    config_of,
    merged,
    new_id,
)

RATE: Final = 24_000  # Hz, mono int16, both ways
BYTES_PER_MS: Final = RATE * 2 // 1000
BATCH_BYTES: Final = 40 * BYTES_PER_MS  # of the caller's voice in one input_audio_buffer.append
MAX_SEGMENTS: Final = 64  # items that wait to be heard
OUR_EVENT: Final = "vr"  # events of ours to the backend have ids `vr_…`


class ToClient(NamedTuple):
    event: Event


class ToBackend(NamedTuple):
    event: Event


class Play(NamedTuple):
    """PCM of that response, in order; call `Bridge.playing` when its turn comes."""

    pcm: bytes
    response_id: str


class EndOfSpeech(NamedTuple):
    """No more audio of that response: once what waits was sent, call `Bridge.drained`."""

    response_id: str


class Interrupt(NamedTuple):
    """Drop all that waits to be played."""


Output = ToClient | ToBackend | Play | EndOfSpeech | Interrupt


@dataclass
class _Segment:
    """Audio of one item, in ms of all that was ever given to play."""

    response_id: str
    item_id: str
    content_index: int
    begin_ms: float
    end_ms: float


class Bridge:
    """One call's. `played_ms`: of all that was given to play, really sent by now."""

    def __init__(self, asked_for: Mapping[str, Any], own_vad: bool) -> None:
        """asked_for: the configuration that came with the offer. own_vad: the backend has none."""
        self._own_vad = own_vad
        self._config: Event = self._for_backend(dict(asked_for)) if asked_for else {}
        self._backend_interrupts = True
        self._segments: deque[_Segment] = deque()
        self._written_ms = 0.0
        self._lost_ms = 0.0  # of what was written, never played
        self._odd = b""  # half a sample
        self._batch = bytearray()
        self._spoken: str | None = None  # the response whose audio came last
        self._audible: str | None = None  # the response whose audio is being played
        self._active: str | None = None  # the response that the backend is making
        self._muted: str | None = None  # its late audio is not wanted
        self._turn_item = ""
        self.dropped: Counter[Count] = Counter()

    # ---- the connection ----------------------------------------------------------------------

    def connected(self) -> list[Event]:
        """For a new connection: the session as the client wants it, and as the audio is."""
        config = self._config or ({} if not self._own_vad else self._for_backend({}))
        return [{"type": "session.update", "session": config}] if config else []

    def lost(self, played_ms: int) -> list[Output]:
        """The connection broke: what the backend was saying is unfinished."""
        out: list[Output] = []
        out += (one for one in self._clear(played_ms) if not isinstance(one, ToBackend))
        self._active = self._muted = None
        self._batch.clear()
        return out

    # ---- the caller's voice ------------------------------------------------------------------

    def heard(self, pcm: bytes) -> Event | None:
        """20 ms of the caller; each 40 ms are an event for the backend."""
        self._batch += pcm
        if len(self._batch) < BATCH_BYTES:
            return None
        audio = base64.b64encode(self._batch).decode()
        self._batch.clear()
        return {"type": "input_audio_buffer.append", "audio": audio}

    def speech(self, change: Speech, played_ms: int) -> list[Output]:
        """Our own turn detection: commit and answer when the caller stops, be silent when he begins."""
        if change.started:
            self._turn_item = new_id("item")
            said = {"audio_start_ms": change.at_ms, "item_id": self._turn_item}
            out: list[Output] = [ToClient({"type": "input_audio_buffer.speech_started"} | said)]
            if self._active is not None:
                self._muted = self._active
                out.append(ToBackend(_ours({"type": "response.cancel"})))
            return out + self._clear(played_ms)
        said = {"audio_end_ms": change.at_ms, "item_id": self._turn_item}
        return [
            ToClient({"type": "input_audio_buffer.speech_stopped"} | said),
            ToBackend(_ours({"type": "input_audio_buffer.commit"})),
            ToBackend(_ours({"type": "response.create"})),
        ]

    # ---- from the client ---------------------------------------------------------------------

    def client_event(self, event: Event, played_ms: int) -> list[Output]:
        """An event of the client or of a sideband, checked by `oai.known_event`. Raises BadEvent."""
        kind = event["type"]
        if kind == "output_audio_buffer.clear":  # the backend has no such buffer
            self._muted = self._active
            return self._clear(played_ms)
        if kind == "session.update":
            config = self._for_backend(config_of(event))
            self._config = merged(self._config, config)
            return [ToBackend(event | {"session": config})]
        return [ToBackend(event)]

    # ---- from the backend --------------------------------------------------------------------

    def backend_event(self, event: Event, played_ms: int) -> list[Output]:
        """Anything that has a type: audio is played, all else is for the client too."""
        kind = event["type"]
        if kind in AUDIO_EVENTS:
            return self._audio(event, played_ms)
        out: list[Output] = [ToClient(event)]
        if kind in ("session.created", "session.updated"):
            self._backend_interrupts = _interrupts(event)
        elif kind == "response.created":
            self._active = _response_id(event)
        elif kind == "input_audio_buffer.speech_started" and self._backend_interrupts:
            self._muted = self._active
            out += self._clear(played_ms)
        elif kind == "response.done":
            done = _response_id(event)
            if self._active in (done, None):
                self._active = self._muted = None
            if self._spoken == done:
                self._spoken = None
                out.append(EndOfSpeech(done))
        elif kind == "error" and _caused_by_us(event):
            # A cancel that came too late, a truncation of what is no more: not the client's affair.
            self.dropped[Count.BACKEND_DROPPED_OWN_ERROR] += 1
            return []
        return out

    # ---- from the player ---------------------------------------------------------------------

    def playing(self, response_id: str) -> list[Output]:
        """Audio of a response is played now."""
        if self._audible == response_id:
            return []
        self._audible = response_id
        return [ToClient({"type": "output_audio_buffer.started", "response_id": response_id})]

    def drained(self, response_id: str) -> list[Output]:
        """All audio of a response was sent."""
        while self._segments and self._segments[0].response_id == response_id:
            self._segments.popleft()
        if self._audible != response_id:
            return []
        self._audible = None
        return [ToClient({"type": "output_audio_buffer.stopped", "response_id": response_id})]

    def _audio(self, event: Event, played_ms: int) -> list[Output]:
        response_id, item_id = str(event.get("response_id", "")), str(event.get("item_id", ""))
        if self._muted is not None and response_id == self._muted:
            self.dropped[Count.BACKEND_DROPPED_MUTED] += 1
            return []
        try:
            pcm = self._odd + binascii.a2b_base64(event.get("delta", ""), strict_mode=True)
        except (ValueError, TypeError):
            self.dropped[Count.BACKEND_DROPPED_BAD_AUDIO] += 1
            return []
        whole = len(pcm) & ~1
        pcm, self._odd = pcm[:whole], pcm[whole:]
        if not pcm:
            return []
        self._spoken = response_id
        index = event.get("content_index", 0)
        begin, self._written_ms = self._written_ms, self._written_ms + len(pcm) / BYTES_PER_MS
        self._note(_Segment(response_id, item_id, index, begin, self._written_ms), played_ms)
        return [Play(pcm, response_id)]

    def _note(self, new: _Segment, played_ms: int) -> None:
        """Remember which item the newest audio belongs to; forget items that were heard."""
        position = played_ms + self._lost_ms
        while self._segments and self._segments[0].end_ms <= position:
            if self._segments[0].item_id == new.item_id:
                break  # a slow backend: the item goes on
            self._segments.popleft()
        if self._segments and self._segments[-1].item_id == new.item_id:
            self._segments[-1].end_ms = new.end_ms
        elif len(self._segments) < MAX_SEGMENTS:
            self._segments.append(new)
        else:
            self.dropped[Count.BACKEND_ITEMS_UNTRACKED] += 1

    def _clear(self, played_ms: int) -> list[Output]:
        """Stop playing, and tell both sides how much was heard."""
        if self._audible is None and not self._segments:
            return []
        position = played_ms + self._lost_ms
        response_id = self._audible or self._segments[0].response_id
        out: list[Output] = [Interrupt()]
        cleared = {"type": "output_audio_buffer.cleared", "response_id": response_id}
        out.append(ToClient(cleared))
        for segment in self._segments:
            if segment.end_ms > position:
                heard = {
                    "item_id": segment.item_id,
                    "content_index": segment.content_index,
                    "audio_end_ms": max(0, int(position - segment.begin_ms)),
                }
                out.append(ToBackend(_ours({"type": "conversation.item.truncate"} | heard)))
        self._lost_ms = self._written_ms - played_ms
        self._segments.clear()
        self._audible, self._spoken, self._odd = None, None, b""
        return out

    def _for_backend(self, config: Event) -> Event:
        """Formats are ours to choose, and so are turns when the backend does not detect them."""
        config = {k: v for k, v in config.items() if k not in _OLD_FORMATS}
        audio = dict(config["audio"]) if isinstance(config.get("audio"), dict) else {}
        for way in ("input", "output"):
            if isinstance(audio.get(way), dict):
                audio[way] = {k: v for k, v in audio[way].items() if k != "format"}
        if self._own_vad:
            config.pop("turn_detection", None)
            audio["input"] = (audio.get("input") or {}) | {"turn_detection": None}
        return {"type": "realtime"} | config | ({"audio": audio} if audio else {})


_OLD_FORMATS: Final = ("input_audio_format", "output_audio_format")


def _ours(event: Event) -> Event:
    return event | {"event_id": new_id(OUR_EVENT)}


def _caused_by_us(event: Event) -> bool:
    error = event.get("error")
    cause = error.get("event_id") if isinstance(error, dict) else None
    return isinstance(cause, str) and cause.startswith(f"{OUR_EVENT}_")


def _response_id(event: Event) -> str:
    response = event.get("response")
    return str(response.get("id", "")) if isinstance(response, dict) else ""


def _interrupts(event: Event) -> bool:
    """Whether speech of the caller ends the answer, as the session says; it does unless it says no."""
    session: Any = event.get("session")
    for key in ("audio", "input"):
        if isinstance(session, dict) and isinstance(session.get(key), dict):
            session = session[key]
    found = session.get("turn_detection") if isinstance(session, dict) else None
    return not (isinstance(found, dict) and found.get("interrupt_response") is False)
