"""An unmodified Pipecat pipeline that says back what it hears: `voicerelay start examples.pipecat_echo:app`.

Needs `pip install "voicerelay[asgi]" "pipecat-ai[runner,webrtc]"`. Clients POST to /api/offer, as Pipecat's do.
"""

from typing import Any

from fastapi import BackgroundTasks, FastAPI
from pipecat.frames.frames import Frame, InputAudioRawFrame, OutputAudioRawFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.transports.base_transport import TransportParams
from pipecat.transports.smallwebrtc.connection import SmallWebRTCConnection
from pipecat.transports.smallwebrtc.request_handler import (
    IceCandidate,
    SmallWebRTCPatchRequest,
    SmallWebRTCRequest,
    SmallWebRTCRequestHandler,
)
from pipecat.transports.smallwebrtc.transport import SmallWebRTCTransport
from pipecat.workers.runner import WorkerRunner

import voicerelay.aiortc

voicerelay.aiortc.install()  # the one line; the rest is any Pipecat app

RATE = 24000
app = FastAPI()
handler = SmallWebRTCRequestHandler()


class Echo(FrameProcessor):
    """Turns what comes in into what goes out."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            frame = OutputAudioRawFrame(frame.audio, frame.sample_rate, frame.num_channels)
        await self.push_frame(frame, direction)


async def bot(connection: SmallWebRTCConnection) -> None:
    """One pipeline a call."""
    transport = SmallWebRTCTransport(
        connection, TransportParams(audio_in_enabled=True, audio_out_enabled=True)
    )
    worker = PipelineWorker(
        Pipeline([transport.input(), Echo(), transport.output()]),
        params=PipelineParams(audio_in_sample_rate=RATE, audio_out_sample_rate=RATE),
    )

    @transport.event_handler("on_client_disconnected")
    async def gone(_transport: SmallWebRTCTransport, _client: SmallWebRTCConnection) -> None:
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await runner.run()


@app.post("/api/offer")
async def offer(request: dict[str, Any], tasks: BackgroundTasks) -> dict[str, str] | None:
    """A call, or its renegotiation."""

    async def begin(connection: SmallWebRTCConnection) -> None:
        tasks.add_task(bot, connection)

    return await handler.handle_web_request(SmallWebRTCRequest.from_dict(request), begin)


@app.patch("/api/offer")
async def trickle(request: dict[str, Any]) -> dict[str, str]:
    """Candidates that the client found later."""
    candidates = [IceCandidate(**candidate) for candidate in request["candidates"]]
    await handler.handle_patch_request(SmallWebRTCPatchRequest(request["pc_id"], candidates))
    return {"status": "success"}
