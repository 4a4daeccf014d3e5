"""An ASGI app as users have them: makes its peer connections itself and sends each track back."""

import json
import os
from typing import Any

from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamTrack

import voicerelay.aiortc

voicerelay.aiortc.install()
calls: dict[str, RTCPeerConnection] = {}


async def app(scope: Any, receive: Any, send: Any) -> None:
    """POST /api/offer as Pipecat has it: sdp, type and pc_id; anything else tells who we are."""
    if scope["type"] != "http":
        return
    body = (await receive())["body"]
    asked = json.loads(body) if body else {}
    status: int = 200
    answer: dict[str, Any] = {"pid": os.getpid(), "known": asked.get("pc_id") in calls}
    if asked.get("sdp"):
        pc = RTCPeerConnection()

        @pc.on("track")
        def _(track: MediaStreamTrack) -> None:
            pc.addTrack(track)

        await pc.setRemoteDescription(RTCSessionDescription(asked["sdp"], asked["type"]))
        await pc.setLocalDescription(await pc.createAnswer())
        pc_id = f"call-{id(pc)}"
        calls[pc_id] = pc
        answer |= {"sdp": pc.localDescription.sdp, "type": "answer", "pc_id": pc_id}
    data = json.dumps(answer).encode()
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


async def broken(scope: Any, receive: Any, send: Any) -> None:
    """An app whose start-up (lifespan) fails."""
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
