"""Has `voicerelay top` draw itself beside a running instance, as an SVG that a browser shows."""

import asyncio
import re
import sys
from pathlib import Path

from tests.support.server import Server, ServerError


async def draw_top(running: Server, svg: Path) -> tuple[int, int]:
    """Takes half a minute of looks; returns width and height in pixels. Raises ServerError."""
    command = [sys.executable, "-P", "-m", "voicerelay", "top", "--svg", str(svg)]
    process = await asyncio.create_subprocess_exec(*command, "--run-dir", str(running.run_dir))
    if await process.wait():
        raise ServerError("voicerelay top failed")
    # Fonts of this machine: a picture must not ask a server for them.
    text = re.sub(r"@font-face \{.*?\}", "", svg.read_text("utf-8"), flags=re.DOTALL)
    svg.write_text(text, "utf-8")
    size = re.search(r'viewBox="0 0 (\d+) (\d+)', text)
    assert size is not None
    return int(size[1]), int(size[2])
