"""What a roll needs: an agent whose code changes, another installation, and the commands of an operator."""

import asyncio
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULE = "vrtest_agent"
ROOMS = ("cli", "control", "relay", "shm", "transceiver")
MARK = b"\x79"  # of what the second agent says; the first gives back what it hears
AGENT = """
from voicerelay import App, Session

app = App()


@app.session
async def agent(session: Session) -> None:
    async for packet in session.packets():
        session.send({answer})
"""
FIRST = AGENT.format(answer="packet")
SECOND = AGENT.format(answer=f"packet._replace(payload={MARK!r} + packet.payload[1:])")
BROKEN = 'raise ValueError("broken on purpose")\n'


class AgentCode:
    """A module in a directory of its own, for PYTHONPATH."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / f"{MODULE}.py"
        self.app = f"{MODULE}:app"
        # Two versions within a second and of one size would share a cached compilation.
        self.env = {"PYTHONPATH": str(directory), "PYTHONDONTWRITEBYTECODE": "1"}
        self.is_now(FIRST)

    def is_now(self, code: str) -> None:
        self._path.write_text(code)


async def command(run_dir: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and all that `voicerelay ARGUMENTS` writes."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "voicerelay", *arguments, "--run-dir", str(run_dir)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


def other_installation(directory: Path, *changes: tuple[str, str, str]) -> str:
    """A copy of these sources, and the interpreter that runs it. changes: file, text, what replaces it."""
    for room in ROOMS:
        shutil.copytree(
            ROOT / room,
            directory / "voicerelay" / room,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    for file in (ROOT / "voicerelay").glob("*.py"):
        shutil.copy(file, directory / "voicerelay")
    for name, old, new in changes:
        path = directory / "voicerelay" / name
        text = path.read_text()
        assert old in text, (name, old)
        path.write_text(text.replace(old, new))
    python = directory / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={directory}:$PYTHONPATH exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return str(python)
