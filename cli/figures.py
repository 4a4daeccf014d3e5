"""What transceivers tell of their calls, asked over the Unix sockets in an instance's run directory."""

import asyncio
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp

from voicerelay.shm.rundir import figures_socket

ANSWER_TIMEOUT_S = 1.0
_SOCKET = re.compile(r"figures-([0-9]{1,5})\.sock")

Json = dict[str, Any]


class TransceiverFigures:
    """Asks the transceivers of one instance; those that do not answer in time are left out."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir

    def slots(self) -> list[int]:
        """Slots that have a socket; one whose process was killed may be among them."""
        found = (_SOCKET.fullmatch(path.name) for path in self._run_dir.glob("figures-*.sock"))
        return sorted(int(match[1]) for match in found if match)

    async def figures(self) -> dict[int, Json]:
        """Slot -> histograms, totals and load (`Internal._figures`)."""
        return await self._ask_all("/internal/figures")

    async def sessions(self) -> list[Json]:
        """All calls of the instance, oldest first (`transceiver.figures.vitals`)."""
        found = await self._ask_all("/internal/sessions")
        sessions = [session for told in found.values() for session in told]
        return sorted(sessions, key=lambda session: -session["age_s"])

    async def session(self, wanted: str) -> Json | None:
        """One call by its id or the last six characters of it; None when nobody has it."""
        found: Json | None = await self._first("GET", _session_path(wanted))
        return found

    async def end(self, wanted: str, reason: str = "") -> Json | None:
        """End one call; its id and the reason it was given. None when nobody has it."""
        found: Json | None = await self._first("DELETE", _session_path(wanted), {"reason": reason})
        return found

    async def drain(self, slot: int, deadline_s: int | None = None) -> Json | None:
        """Have one take no new calls: its slot, calls and deadline. None when it does not answer."""
        query = {} if deadline_s is None else {"deadline": str(deadline_s)}
        found: Json | None = await self._ask(slot, "PUT", "/internal/drain", query)
        return found

    async def undrain(self, slot: int) -> Json | None:
        """Have one take new calls again: its slot and calls. None when it does not answer."""
        found: Json | None = await self._ask(slot, "DELETE", "/internal/drain")
        return found

    async def _ask_all(self, path: str) -> dict[int, Any]:
        slots = self.slots()
        answers = await asyncio.gather(*(self._ask(slot, "GET", path) for slot in slots))
        found = zip(slots, answers, strict=True)
        return {slot: answer for slot, answer in found if answer is not None}

    async def _first(self, method: str, path: str, query: dict[str, str] | None = None) -> Any:
        for slot in self.slots():
            answer = await self._ask(slot, method, path, query)
            if answer is not None:
                return answer
        return None

    async def _ask(
        self, slot: int, method: str, path: str, query: dict[str, str] | None = None
    ) -> Any:
        """The JSON of one answer; None for any other status, and when nobody answers."""
        connector = aiohttp.UnixConnector(str(figures_socket(self._run_dir, slot)))
        timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as client:
            try:
                async with client.request(
                    method, f"http://transceiver{path}", params=query
                ) as answer:
                    return await answer.json() if answer.status == 200 else None
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
                return None


def _session_path(wanted: str) -> str:
    return f"/internal/sessions/{quote(wanted, safe='')}"
