"""The compatibility path in the bench: stock.py's tracks over our transport, `bench.voice.compat:fresh`."""

from typing import Any

import voicerelay.aiortc
from bench.voice.said import CLIENT_RATE, looped
from bench.voice.stock import Stock

voicerelay.aiortc.install()
looped(0, 1, CLIENT_RATE)  # made before anybody calls
_stock = Stock("fresh", "")


async def fresh(scope: Any, receive: Any, send: Any) -> None:
    """POST /whip begins a call, DELETE /whip/<name> ends it, as with the other contenders."""
    if scope["type"] != "http":
        return
    offer, more = b"", True
    while more:
        message = await receive()
        offer += message.get("body", b"")
        more = message.get("more_body", False)
    if scope["method"] == "DELETE":
        await _stock.hang_up(scope["path"].rpartition("/")[2])
        await _respond(send, 200, [], b"")
        return
    name, sdp = await _stock.answer(offer.decode())
    headers = [(b"content-type", b"application/sdp"), (b"location", f"/whip/{name}".encode())]
    await _respond(send, 201, headers, sdp.encode())


async def _respond(send: Any, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
