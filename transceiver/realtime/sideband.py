"""The sideband of a Realtime call: a WebSocket beside the client's `oai-events` channel, for the app's server."""

import asyncio
from typing import Any, Final

import aiohttp
from aiohttp import WSMsgType, web

from voicerelay.transceiver.realtime.oai import CHANNEL, MAX_EVENT_BYTES
from voicerelay.transceiver.session import LiveSession
from voicerelay.transceiver.voice.unread import Unread

MAX_UNSENT_EVENTS: Final = 256  # for a sideband that does not read; then it is closed
HEARTBEAT_S: Final = 20.0
CLOSE_S: Final = 0.5
SUBPROTOCOL: Final = "realtime"  # asked for by some clients, which end when nobody takes it up
TRY_AGAIN_LATER: Final = 1013  # RFC 6455 §7.4.1, IANA's registry


class Sideband:
    """One WebSocket, to the call as another channel of the same label."""

    label = CHANNEL

    def __init__(self) -> None:
        self._unsent: Unread[str | bytes] = Unread(MAX_UNSENT_EVENTS, keep_oldest=True)
        self._bytes = 0
        self.readyState = "open"

    @property
    def bufferedAmount(self) -> int:
        return self._bytes

    def send(self, data: str | bytes) -> None:
        """Never blocks; one event too many ends the sideband, and not the call."""
        self._unsent.put(data)
        self._bytes += len(data)
        if self._unsent.dropped:
            self.close()

    def close(self) -> None:
        self.readyState = "closed"
        self._unsent.close()

    async def serve(self, request: web.Request, session: LiveSession) -> web.WebSocketResponse:
        """Until either side, or the call, ends."""
        socket = _response()
        await socket.prepare(request)
        if not session.tap(self):
            await socket.close(code=TRY_AGAIN_LATER, message=b"too many sidebands")
            return socket
        reading = asyncio.ensure_future(self._read(socket, session))
        writing = asyncio.ensure_future(self._write(socket))
        ended = asyncio.ensure_future(session.ended.wait())
        try:
            await asyncio.wait((reading, writing, ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            session.untap(self)
            self.close()
            await _cancel(reading, ended)
            await asyncio.wait((writing,), timeout=CLOSE_S)
            await _cancel(writing)
            await socket.close()
        return socket

    async def _read(self, socket: web.WebSocketResponse, session: LiveSession) -> None:
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                session.message_received(CHANNEL, message.data)

    async def _write(self, socket: web.WebSocketResponse) -> None:
        try:
            async for data in self._unsent:
                self._bytes -= len(data)
                await socket.send_str(data if isinstance(data, str) else data.decode())
        except ConnectionError:
            pass  # it has gone; reading ends too


def _response() -> web.WebSocketResponse:
    return web.WebSocketResponse(
        max_msg_size=MAX_EVENT_BYTES,
        heartbeat=HEARTBEAT_S,
        timeout=CLOSE_S,
        protocols=(SUBPROTOCOL,),
    )


async def pass_on(
    request: web.Request, client: aiohttp.ClientSession
) -> web.WebSocketResponse | None:
    """Carry a sideband to the transceiver that owns the call; None when it does not take it."""
    try:
        theirs = await client.ws_connect(
            f"http://sibling{request.path_qs}",
            max_msg_size=MAX_EVENT_BYTES,
            headers={k: v for k, v in request.headers.items() if k == "Authorization"},
        )
    except (aiohttp.ClientError, OSError, TimeoutError):
        return None
    ours = _response()
    ways: list[asyncio.Future[None]] = []
    try:
        await ours.prepare(request)
        ways += [
            asyncio.ensure_future(_pump(ours, theirs)),
            asyncio.ensure_future(_pump(theirs, ours)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _cancel(*ways)
        await theirs.close()
        await ours.close()
    return ours


Socket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


async def _pump(source: Socket, sink: Socket) -> None:
    try:
        async for message in source:
            if message.type is WSMsgType.TEXT:
                await sink.send_str(message.data)
    except ConnectionError:
        pass  # the other way ends too


async def _cancel(*tasks: "asyncio.Future[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
