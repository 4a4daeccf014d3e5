"""HTTP of the contracts against a small server: the key goes along, what fails has a reason."""

import asyncio

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from voicerelay.cli.loadtest.contracts import Ask, Declined
from voicerelay.cli.loadtest.signalling import Signalling


async def post(request: web.Request) -> web.Response:
    if request.headers.get("Authorization") != "Bearer key-1":
        return web.json_response({"error": {"code": "unauthorized"}}, status=401)
    body = await request.text()
    return web.Response(status=201, text=f"v=0 for {body}", headers={"Location": "/whip/1"})


async def delete(_request: web.Request) -> web.Response:
    return web.Response(status=404)


async def redirect(_request: web.Request) -> web.Response:
    raise web.HTTPTemporaryRedirect("http://192.0.2.1/")


async def with_server(key: str, path: str = "/whip") -> tuple[str, int]:
    """SDP of the answer, status of the goodbye."""
    app = web.Application()
    app.add_routes(
        [web.post("/whip", post), web.delete("/whip/1", delete), web.post("/away", redirect)]
    )
    async with TestServer(app) as server, aiohttp.ClientSession() as http:
        signalling = Signalling(http, "whip", str(server.make_url(path)), key)
        opened = await signalling.open("offer", "name")
        assert opened.goodbye is not None
        return opened.sdp, await signalling.close(opened.goodbye)


def test_a_call_is_opened_with_the_key_and_closed() -> None:
    assert asyncio.run(with_server("key-1")) == ("v=0 for offer", 404)


@pytest.mark.parametrize(
    ("key", "path", "reason"),
    [("", "/whip", "HTTP 401 unauthorized"), ("key-1", "/away", "HTTP 307")],
)
def test_a_refusal_has_a_reason_and_no_redirect_is_followed(
    key: str, path: str, reason: str
) -> None:
    with pytest.raises(Declined) as caught:
        asyncio.run(with_server(key, path))

    assert caught.value.reason == reason


def test_a_server_that_is_not_there_is_a_reason_too() -> None:
    async def call() -> None:
        async with aiohttp.ClientSession() as http:
            signalling = Signalling(http, "whip", "http://127.0.0.1:9/whip", "")
            await signalling.close(Ask("DELETE", "http://127.0.0.1:9/whip/1"))

    with pytest.raises(Declined, match="HTTP: ClientConnectorError"):
        asyncio.run(call())
