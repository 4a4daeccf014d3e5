"""Calls whose brain is elsewhere: an agent that bridges each to a server of the Realtime WebSocket protocol."""

import asyncio
import contextlib
import json
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import ClientWebSocketResponse, WSMsgType
from yarl import URL

from voicerelay.shm.counters import TransceiverCounter
from voicerelay.transceiver.agent import App, AppError, Session, SessionClosed
from voicerelay.transceiver.realtime.bridge import (
    BYTES_PER_MS,
    RATE,
    Bridge,
    EndOfSpeech,
    Interrupt,
    Output,
    Play,
    ToBackend,
    ToClient,
)
from voicerelay.transceiver.realtime.event_channel import EventChannel
from voicerelay.transceiver.realtime.oai import CALLS_PATH, BadEvent, Event, error_event, id_of
from voicerelay.transceiver.realtime.patience import Patience
from voicerelay.transceiver.settings import TransceiverSettings
from voicerelay.transceiver.voice.unread import Unread

CONNECT_TIMEOUT_S: Final = 3.0
SEND_TIMEOUT_S: Final = 5.0  # a backend that takes nothing for so long is gone
PING_S: Final = 4.0
MAX_UNANSWERED_PINGS: Final = 3  # a backend that says nothing at all after so many is gone
CLOSE_S: Final = 0.5
FAREWELL_S: Final = 0.3  # for the last event to reach the client before the call ends
CHANNEL_WAIT_S: Final = 2.0  # the client's data channel comes after its media
SEND_BUFFER_BYTES: Final = 64 * 1024  # a second of voice in base64
MAX_MESSAGE_BYTES: Final = 4 << 20  # of the backend
MAX_UNSENT_EVENTS: Final = 256  # for a slow backend; more are refused
MAX_WAITING_MS: Final = 120_000  # of audio not yet played; then the backend is not read
MAX_WAITING_PIECES: Final = 8192
PLAY_SLICE_BYTES: Final = 200 * BYTES_PER_MS

log = logging.getLogger("voicerelay.backend")


class BackendLost(Exception):
    """No connection; the message may be shown to the client: it names neither address nor key."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Backend:
    """One for each process: where the backend is, and the client that all calls share."""

    def __init__(self, url: str, key: str = "", own_vad: bool = False) -> None:
        self._url = URL(url)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client: aiohttp.ClientSession | None = None
        self.own_vad = own_vad

    async def agent(self, session: Session) -> None:
        """The agent of every call."""
        await _Call(session, self).run()

    async def connect(self, model: str = "") -> ClientWebSocketResponse:
        """Raises BackendLost."""
        if self._client is None:
            connector = aiohttp.TCPConnector(limit=0, socket_factory=_socket)  # calls are limited
            self._client = aiohttp.ClientSession(connector=connector, headers=self._headers)
        url = self._url
        if model and "model" not in url.query:
            url = url.update_query(model=model)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                return await self._client.ws_connect(
                    url,
                    max_msg_size=MAX_MESSAGE_BYTES,
                    autoping=False,  # a pong that waits behind audio is no reason to hang up
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S),
                )
        except aiohttp.WSServerHandshakeError as exc:
            raise BackendLost(
                "backend_refused", f"the backend refused the call (HTTP {exc.status})"
            ) from None
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            log.warning("no connection to %s: %s", self._url.host, type(exc).__name__)
            raise BackendLost("backend_unavailable", "the backend cannot be reached") from None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """The kernel would keep half a minute of voice for a backend that does not read."""
    made = socket.socket(*address[:3])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    return made


def backend_app(settings: TransceiverSettings) -> tuple[App, Backend]:
    """The app of `--backend`. Raises AppError."""
    key = ""
    if settings.backend_key_file:
        try:
            key = Path(settings.backend_key_file).read_text("ascii").strip()
        except (OSError, ValueError) as exc:
            raise AppError(f"--backend-key-file: {type(exc).__name__}: cannot be read") from None
    if settings.backend_vad and find_spec("webrtcvad") is None:
        raise AppError('--backend-vad needs a detector: pip install "voicerelay[vad]"')
    backend, app = Backend(settings.backend, key, settings.backend_vad), App()
    app.session(backend.agent)
    return app, backend


class _Call:
    """One call: carries out what its Bridge decides."""

    def __init__(self, session: Session, backend: Backend) -> None:
        request = session.request
        asked_for = request.body if request.path == CALLS_PATH else None
        self._session = session
        self._backend = backend
        self._bridge = Bridge(asked_for if isinstance(asked_for, dict) else {}, backend.own_vad)
        self._model = request.query.get("model", "") if request.path == CALLS_PATH else ""
        self._unsent: Unread[Event] = Unread(MAX_UNSENT_EVENTS, keep_oldest=True)
        self._waiting: deque[Play | EndOfSpeech] = deque()
        self._waiting_bytes = 0
        self._more = asyncio.Event()  # there is something to play
        self._less = asyncio.Event()  # something was played
        self._unanswered = 0  # pings since the backend's latest message
        self._frames = session.listen(RATE)
        self._speech = session.speech() if backend.own_vad else None
        self._events = EventChannel(session, self._from_client)

    async def run(self) -> None:
        """Until the call ends, or the backend is lost for good."""
        patience = Patience()
        try:
            socket = await self._backend.connect(self._model)
            while await self._serve(socket):
                self._session._note(TransceiverCounter.BACKENDS_LOST)
                self._unsent = Unread(MAX_UNSENT_EVENTS, keep_oldest=True)  # it was for the old one
                self._carry_out(self._bridge.lost(self._played_ms))
                socket = await self._connect_again(patience)
        except BackendLost as exc:
            self._events.send(error_event(exc.code, str(exc), kind="server_error"))
            await self._events.wait_open(CHANNEL_WAIT_S)
            await asyncio.sleep(FAREWELL_S)

    async def _connect_again(self, patience: Patience) -> ClientWebSocketResponse:
        """Raises BackendLost when patience has ended."""
        patience.begin(time.monotonic())
        while (wait_s := patience.next_wait_s(time.monotonic())) is not None:
            await asyncio.sleep(wait_s)
            try:
                socket = await self._backend.connect(self._model)
            except BackendLost:
                continue
            told = "the connection to the backend was lost and made again; it has forgotten"
            self._events.send(error_event("backend_reconnected", told, kind="server_error"))
            return socket
        raise BackendLost("backend_lost", "the connection to the backend was lost; the call ends")

    async def _serve(self, socket: ClientWebSocketResponse) -> bool:
        """False when the call has ended, True when the connection has."""
        self._unanswered = 0
        ways = [self._hear(socket), self._send_events(socket), self._play(), self._read(socket)]
        tasks = [asyncio.ensure_future(way) for way in (*ways, self._watch(socket))]
        if self._speech is not None:
            tasks.append(asyncio.ensure_future(self._follow_speech()))
        hearing = tasks[0]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return not (hearing.done() and hearing.exception() is None)
        finally:
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception) and not isinstance(result, _EXPECTED):
                    log.error("session %s", self._session.id[-6:], exc_info=result)
            await _hang_up(socket)

    # ---- what runs while there is a connection -----------------------------------------------

    async def _hear(self, socket: ClientWebSocketResponse) -> None:
        """The caller's voice; what a slow backend does not take in time, `listen` drops and counts."""
        async for frame in self._frames:
            event = self._bridge.heard(frame.tobytes())
            if event is not None:
                await _send(socket, event)

    async def _send_events(self, socket: ClientWebSocketResponse) -> None:
        for event in self._bridge.connected():
            await _send(socket, event)
        async for event in self._unsent:
            await _send(socket, event)

    async def _read(self, socket: ClientWebSocketResponse) -> None:
        async for message in socket:
            self._unanswered = 0
            if message.type is WSMsgType.PING:
                await socket.pong(message.data)
            if message.type in (WSMsgType.PING, WSMsgType.PONG):
                continue
            event = _event_in(message.data)
            if event is None:
                self._session._note(TransceiverCounter.BACKEND_DROPPED_NO_EVENT)
                continue
            self._carry_out(self._bridge.backend_event(event, self._played_ms))
            while self._has_plenty:
                self._less.clear()
                await self._less.wait()
                self._unanswered = 0

    async def _watch(self, socket: ClientWebSocketResponse) -> None:
        """Ends when a backend that is read says nothing."""
        while self._has_plenty or self._unanswered < MAX_UNANSWERED_PINGS:
            await asyncio.sleep(PING_S)
            self._unanswered += 1
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await socket.ping()

    async def _play(self) -> None:
        while True:
            while not self._waiting:
                self._more.clear()
                await self._more.wait()
            item = self._waiting.popleft()
            if isinstance(item, Play):
                self._waiting_bytes -= len(item.pcm)
                self._less.set()
                self._carry_out(self._bridge.playing(item.response_id))
                await self._session.play(item.pcm, RATE)
            else:
                await self._session.drain()
                self._carry_out(self._bridge.drained(item.response_id))

    async def _follow_speech(self) -> None:
        assert self._speech is not None
        async for change in self._speech:
            self._carry_out(self._bridge.speech(change, self._played_ms))

    @property
    def _has_plenty(self) -> bool:
        """So much waits to be played that the backend shall wait too."""
        waiting = self._waiting
        return (
            self._waiting_bytes > MAX_WAITING_MS * BYTES_PER_MS or len(waiting) > MAX_WAITING_PIECES
        )

    # ---- carrying out ------------------------------------------------------------------------

    @property
    def _played_ms(self) -> int:
        return self._session.stats().played_ms

    def _from_client(self, event: Event) -> None:
        if len(self._unsent) >= MAX_UNSENT_EVENTS:
            raise BadEvent("too_many_events", "the backend does not take events", id_of(event))
        self._carry_out(self._bridge.client_event(event, self._played_ms))

    def _carry_out(self, outputs: Iterable[Output]) -> None:
        while self._bridge.dropped:
            self._session._note(*self._bridge.dropped.popitem())
        for output in outputs:
            match output:
                case ToClient(event):
                    self._events.send(event)
                case ToBackend(event):
                    self._unsent.put(event)
                case Interrupt():
                    self._waiting.clear()
                    self._waiting_bytes = 0
                    self._less.set()
                    self._session.interrupt()
                case Play(pcm, response_id):
                    for start in range(0, len(pcm), PLAY_SLICE_BYTES):
                        self._waiting.append(
                            Play(pcm[start : start + PLAY_SLICE_BYTES], response_id)
                        )
                    self._waiting_bytes += len(pcm)
                    self._more.set()
                case EndOfSpeech():
                    self._waiting.append(output)
                    self._more.set()


_EXPECTED: Final = (BackendLost, SessionClosed, ConnectionError, TimeoutError)


async def _hang_up(connection: ClientWebSocketResponse) -> None:
    """Say goodbye; who does not read it, or anything, is left all the same."""
    made = connection.get_extra_info("socket")
    if made is None or made.fileno() < 0:
        return
    # What waits to be sent would keep the transport open for ever; shut down, it fails and goes.
    with socket.socket(fileno=os.dup(made.fileno())) as same:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await connection.close()
        with contextlib.suppress(OSError):
            same.shutdown(socket.SHUT_RDWR)


async def _send(socket: ClientWebSocketResponse, event: Event) -> None:
    """Raises ConnectionError or TimeoutError."""
    text = json.dumps(event, separators=(",", ":"))
    async with asyncio.timeout(SEND_TIMEOUT_S):
        await socket.send_str(text)


def _event_in(data: str | bytes) -> Event | None:
    """Events are text; what is binary may be one too."""
    try:
        event: Any = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and isinstance(event.get("type"), str) else None
