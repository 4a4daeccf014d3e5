"""Keys and tokens on a running server: who may call, and that no secret is to be found."""

import asyncio
import json
import socket
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.support.client import Call, CallRefused
from tests.support.server import READY_TIMEOUT_S, free_port, server

pytestmark = pytest.mark.system
KEY = "web-key-0123456789abcdef"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"web:{KEY}\n")
    return path


def made_token(keys: Path) -> str:
    command = [sys.executable, "-P", "-m", "voicerelay", "token", "--api-key-file", str(keys)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_who_has_a_token_calls_and_the_secret_is_nowhere(keys: Path) -> None:
    answers: list[str] = []

    async def call(url: str, credential: str) -> int:
        """200 when it could call and hang up, else what it was refused with."""
        headers = {"Authorization": f"Bearer {credential}"} if credential else {}
        async with aiohttp.ClientSession(headers=headers) as http:
            call = Call(url)
            try:
                await call.connect(http)
                answers.append(call.answer)
                return await call.hang_up(http)
            except CallRefused as refused:
                return refused.status
            finally:
                await call.close()

    with server(extra=["--api-key-file", str(keys)]) as running:
        called = [
            asyncio.run(call(running.http_url, credential))
            for credential in (made_token(keys), KEY, "", "wrong-key-0123456789")
        ]
        status = str(running.status())
        processes = b"".join(
            path.read_bytes()
            for pid in (running.pid, *_children(running.pid))
            for path in (Path(f"/proc/{pid}/cmdline"), Path(f"/proc/{pid}/environ"))
        )

    assert called == [200, 200, 401, 401]
    assert "with an API key or token" in running.output
    assert KEY not in running.output + status
    assert KEY.encode() not in processes
    assert_logs_are_discreet(running.output, answers)


def assert_logs_are_discreet(output: str, answers: list[str]) -> None:
    """What is logged at info is JSON where no terminal is, without SDP and addresses of clients."""
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    ended = [line for line in lines if "ended" in line["message"] and "session" in line]
    assert ended
    assert all(len(line["session"]) == 6 and line["reason"] for line in ended)
    assert {line["level"] for line in lines} <= {"info", "warning"}
    logged = "\n".join(map(str, lines))
    assert "127.0.0.1" not in logged  # the callers' address
    assert len(answers) == 2
    for line in {line for answer in answers for line in answer.splitlines() if len(line) > 6}:
        assert line not in logged
        for secret in ("a=ice-ufrag:", "a=ice-pwd:", "a=fingerprint:sha-256 "):
            assert not line.startswith(secret) or line.removeprefix(secret) not in logged


def test_a_cap_holds_over_all_transceivers(keys: Path) -> None:
    async def run(url: str) -> None:
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as http:
            calls = [Call(url) for _ in range(2)]
            for call in calls:
                await call.connect(http)
            for _ in range(6):  # so that each transceiver is asked
                one_more = Call(url)
                with pytest.raises(CallRefused) as refused:
                    await one_more.connect(http)
                assert refused.value.status == 429
                await one_more.close()
            assert await calls[0].hang_up(http) == 200
            await asyncio.sleep(0.1)
            again = Call(url)
            await again.connect(http)
            for call in (*calls, again):
                await call.close()

    with server(extra=["--api-key-file", str(keys), "--sessions-per-key", "2"]) as running:
        asyncio.run(run(running.http_url))


def test_a_start_that_would_let_anybody_in_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "voicerelay", "start", "--listen", "127.0.0.1"]
    command += ["--port", str(free_port(socket.SOCK_DGRAM)), "--run-dir", str(tmp_path / "run")]
    command += ["--http", f"0.0.0.0:{free_port(socket.SOCK_STREAM)}"]

    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=READY_TIMEOUT_S
    )

    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("voicerelay: error: ")]
    assert len(errors) == 1
    assert "--api-key-file" in errors[0]
    assert "--open" in errors[0]


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
