"""Every HTTP error has one shape, and nothing of our inside leaves with it."""

import asyncio
import json
import logging

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from voicerelay.transceiver.signalling.problem import RETRY_AFTER_S, problem, problems

PRIVATE_ID = "c2VjcmV0LXNlc3Npb24taWQ"


async def ask(method: str, path: str, body: bytes = b"") -> tuple[int, dict[str, str], str]:
    async def fail(_request: web.Request) -> web.Response:
        raise RuntimeError("private")

    async def read(request: web.Request) -> web.Response:
        return web.json_response(json.loads(await request.text()))

    async def move(_request: web.Request) -> web.Response:
        raise web.HTTPTemporaryRedirect("/elsewhere")

    app = web.Application(middlewares=[problems], client_max_size=100)
    app.add_routes([web.get("/fail/{id}", fail), web.post("/read", read), web.get("/move", move)])
    async with TestClient(TestServer(app)) as client:
        request = client.request(method, path, data=body, allow_redirects=False)
        async with request as response:
            return response.status, dict(response.headers), await response.text()


def error_of(text: str) -> str:
    found = json.loads(text)
    assert set(found) == {"error"}
    assert set(found["error"]) == {"code", "message"}
    return str(found["error"]["code"])


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/nothing", b"", 404, "not_found"),
        ("DELETE", "/read", b"", 405, "method_not_allowed"),
        ("POST", "/read", b"x" * 101, 413, "request_entity_too_large"),
        ("POST", "/read", b"{", 400, "malformed_body"),
        ("POST", "/read", b'"\xff"', 400, "malformed_body"),
        ("GET", f"/fail/{PRIVATE_ID}", b"", 500, "internal_error"),
    ],
)
def test_every_error_has_the_same_shape(
    method: str, path: str, body: bytes, status: int, code: str
) -> None:
    found, headers, text = asyncio.run(ask(method, path, body))

    assert (found, error_of(text)) == (status, code)
    assert headers["Content-Type"].startswith("application/json")
    assert "private" not in text
    assert "Retry-After" not in headers
    assert headers.get("Allow") == ("POST" if status == 405 else None)


def test_our_own_mistake_is_logged_with_its_place_but_without_the_sessions_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR, "voicerelay.http"):
        asyncio.run(ask("GET", f"/fail/{PRIVATE_ID}"))

    (record,) = (r for r in caplog.records if r.name == "voicerelay.http")
    assert record.exc_info is not None
    assert PRIVATE_ID not in record.getMessage()
    assert "GET" in record.getMessage()
    assert "fail" in record.getMessage()


def test_a_redirect_is_no_error() -> None:
    status, headers, _ = asyncio.run(ask("GET", "/move"))

    assert (status, headers["Location"]) == (307, "/elsewhere")


def test_503_says_when_to_try_again() -> None:
    response = problem(503, "server_full", "the server is full")

    assert response.status == 503
    assert response.headers["Retry-After"] == str(RETRY_AFTER_S)
    assert response.text is not None
    assert error_of(response.text) == "server_full"
