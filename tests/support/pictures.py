"""Takes the pictures of the documentation: `python -m tests.support.pictures DIRECTORY`."""

import asyncio
import base64
import socket
import sys
import wave
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.browsers import Browser, chromium
from tests.support.server import Server, free_port, server
from tests.support.top_picture import draw_top
from tests.support.voices import speech

RATE = 48_000  # Hz
CALLS = 11  # beside the demo page's own
TALK_S = 30.0
PATIENCE_S = 60.0
WIDTH = 1280  # of the operator's page; it is as high as it must be
DEMO_SIZE = (1000, 760)
OPERATOR = {"operator-page": "light", "operator-page-dark": "dark"}  # name -> colours

# Further calls from the demo page: whole browsers' ends, with RTCP.
MORE_CALLS = """(async () => {
  const stream = await navigator.mediaDevices.getUserMedia({audio: true});
  window.more = [];
  for (let n = 0; n < COUNT; n++) {
    const pc = new RTCPeerConnection();
    stream.getTracks().forEach(track => pc.addTrack(track, stream));
    await pc.setLocalDescription(await pc.createOffer());
    const answer = await fetch('/whip', {method: 'POST', body: pc.localDescription.sdp,
      headers: {'Content-Type': 'application/sdp'}});
    await pc.setRemoteDescription({type: 'answer', sdp: await answer.text()});
    window.more.push(pc);
  }
})()"""


async def resize(browser: Browser, width: int, height: int) -> None:
    """CSS pixels."""
    await browser.command("Emulation.setScrollbarsHidden", hidden=True)
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    await browser.command("Emulation.setDeviceMetricsOverride", **size)


async def shoot(browser: Browser, path: Path, scheme: str = "light") -> None:
    """The page as it is."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    await browser.command("Emulation.setEmulatedMedia", features=[feature])
    await browser.evaluate("new Promise(done => setTimeout(done, 1500))")  # a look or two
    made = await browser.command("Page.captureScreenshot", format="png")
    path.write_bytes(base64.b64decode(made["data"]))
    print(path)  # noqa: T201


async def take(running: Server, admin: str, into: Path, voice: Path) -> None:
    async with chromium(voice=voice) as caller, chromium() as operator:
        await caller.goto(running.http_url)
        await caller.evaluate("void document.getElementById('call').click()")
        state = "document.querySelector('main').dataset.state"
        await caller.wait_for(f"{state} === 'connected'", PATIENCE_S)
        await caller.wait_for("window.voicerelay.stats.rtt_ms > 0", PATIENCE_S)
        await resize(caller, *DEMO_SIZE)
        await shoot(caller, into / "demo-page.png")

        await operator.goto(admin)
        await caller.evaluate(MORE_CALLS.replace("COUNT", str(CALLS)))
        rows = "document.querySelectorAll('#calls tbody tr').length"
        await operator.wait_for(f"{rows} === {CALLS + 1}", PATIENCE_S)
        top = into / "top.svg"
        # So that lines have a past.
        size, _ = await asyncio.gather(draw_top(running, top), asyncio.sleep(TALK_S))
        await resize(operator, WIDTH, 100)
        await resize(operator, WIDTH, await operator.evaluate("document.body.scrollHeight"))
        for name, scheme in OPERATOR.items():
            await shoot(operator, into / f"{name}.png", scheme)
        await resize(operator, *size)
        await operator.goto(top.resolve().as_uri())
        await shoot(operator, into / "top.png", "dark")
        top.unlink()


def main() -> None:
    into = Path(sys.argv[1])
    admin = f"127.0.0.1:{free_port(socket.SOCK_STREAM)}"
    with TemporaryDirectory(prefix="vr-") as folder:
        voice = Path(folder) / "voice.wav"
        with wave.open(str(voice), "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            file.writeframes(speech(10.0, RATE).tobytes())
        with server(extra=["--admin", admin, "--steering", "off"], ready_timeout_s=90) as running:
            asyncio.run(take(running, f"http://{admin}/", into, voice))


if __name__ == "__main__":
    main()
