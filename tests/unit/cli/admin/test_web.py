"""HTTP of the admin process: what it answers, to whom, and under which policy the page runs."""

import asyncio
import base64
import contextlib
import hashlib
import re
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from tests.unit.cli.admin.looks import call, look
from voicerelay.cli.admin.snapshot import Snapshot
from voicerelay.cli.admin.web import AdminWeb, policy
from voicerelay.cli.errors import NotRunning

PAGE = files("voicerelay.cli.admin").joinpath("page/index.html").read_text("utf-8")


class Shown:
    """A looker that shows what it was given, or fails."""

    def __init__(self, seen: Snapshot | None) -> None:
        self._seen = seen

    def status(self) -> dict[str, Any]:
        return self._it.status

    async def look(self, calls: bool) -> Snapshot:
        return self._it

    @property
    def _it(self) -> Snapshot:
        if self._seen is None:
            raise NotRunning("gone")
        return self._seen


@contextlib.asynccontextmanager
async def admin(seen: Snapshot | None, private: bool = True) -> AsyncIterator[TestClient[Any, Any]]:
    app = AdminWeb(Shown(seen), private).application()  # type: ignore[arg-type]
    async with TestClient(TestServer(app)) as client:
        yield client


def test_health_says_why_it_is_not_ready() -> None:
    async def run() -> None:
        async with admin(look()) as client:
            assert (await client.get("/livez")).status == 200
            ready = await client.get("/readyz")
            assert (ready.status, await ready.json()) == (200, {"ready": True, "why": []})
        async with admin(look(control=None)) as client:
            ready = await client.get("/readyz")
            assert (ready.status, (await ready.json())["why"]) == (503, ["control is down"])

    asyncio.run(run())


def test_an_instance_that_cannot_be_read_leaves_it_alive_and_not_ready() -> None:
    async def run() -> None:
        async with admin(None) as client:
            statuses = {
                path: (await client.get(path)).status
                for path in ("/livez", "/readyz", "/metrics", "/api/snapshot", "/")
            }
            assert statuses == {
                "/livez": 200,
                "/readyz": 503,
                "/metrics": 503,
                "/api/snapshot": 503,
                "/": 200,
            }

    asyncio.run(run())


def test_metrics_and_snapshot_are_answered_and_not_kept() -> None:
    async def run() -> None:
        async with admin(look(calls=[call()])) as client:
            metrics = await client.get("/metrics")
            snapshot = await client.get("/api/snapshot")

            assert metrics.content_type == "text/plain"
            assert "voicerelay_build_info" in await metrics.text()
            assert len((await snapshot.json())["calls"]) == 1
            for answer in (metrics, snapshot):
                assert answer.headers["Cache-Control"] == "no-store"
                assert answer.headers["X-Content-Type-Options"] == "nosniff"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("private", "host", "status"),
    [
        (True, "localhost:9090", 200),
        (True, "127.0.0.1:9090", 200),
        (True, "rebound.example", 403),
        (False, "ops.example", 200),
    ],
)
def test_on_loopback_only_names_of_this_machine_are_answered(
    private: bool, host: str, status: int
) -> None:
    async def run() -> None:
        async with admin(look(), private) as client:
            answer = await client.get("/api/snapshot", headers={"Host": host})

            assert answer.status == status

    asyncio.run(run())


def test_nothing_can_be_changed_here() -> None:
    async def run() -> None:
        async with admin(look()) as client:
            for method in ("POST", "PUT", "DELETE", "PATCH"):
                for path in ("/", "/api/snapshot", "/metrics", "/internal/sessions/x"):
                    assert (await client.request(method, path)).status in (404, 405)

    asyncio.run(run())


def test_the_page_runs_under_a_policy_of_its_own_script_alone() -> None:
    async def run() -> None:
        async with admin(look()) as client:
            answer = await client.get("/")
            told = answer.headers["Content-Security-Policy"]

            assert await answer.text() == PAGE
            script = re.search(r"<script>(.*?)</script>", PAGE, re.DOTALL)
            assert script is not None
            digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
            assert f"script-src 'sha256-{digest}'" in told
            assert told.startswith("default-src 'none'")
            assert "unsafe" not in told

    asyncio.run(run())


def test_the_page_holds_all_it_needs_and_makes_no_markup_of_data() -> None:
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", PAGE)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", PAGE)
    assert not re.search(r"<[^>]+\sstyle=|<[^>]+\son[a-z]+=", PAGE)  # the policy forbids them
    assert policy(PAGE).count("sha256-") == 2
