"""Drives real Chromium and Firefox from a test, because only they prove that a browser can call.

Chromium speaks the DevTools protocol, Firefox WebDriver BiDi; both over one WebSocket to 127.0.0.1.
The driver reaches the browser over loopback, so the two must share a network namespace: to test
inside one, run the whole test process there (`ip netns exec NAME python -m pytest …`).
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

START_TIMEOUT_S = 60  # a cold start of Firefox on a busy two-core machine takes many seconds
COMMAND_TIMEOUT_S = 30
EXIT_TIMEOUT_S = 5
POLL_S = 0.1
MAX_MESSAGE_BYTES = 64 << 20

CHROMIUM = shutil.which("chromium")
FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")

CHROMIUM_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    # Even with all these it looks for updates and for Google; without names it reaches nobody.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-breakpad",
    # A headless page may count as hidden; its timers must not be throttled while it records.
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    "--remote-debugging-port=0",
)

FIREFOX_PREFS: Mapping[str, bool | int | str] = {
    "media.navigator.streams.fake": True,
    "media.navigator.permission.disabled": True,
    # Only a page that may use the microphone gets all local addresses as candidates, lo included.
    "permissions.default.microphone": 1,
    # Without a sound card an AudioContext would stay suspended for ever.
    "media.cubeb.force_mock_context": True,
    "media.autoplay.default": 0,
    "media.autoplay.blocking_policy": 0,
    "remote.active-protocols": 1,  # WebDriver BiDi only
    # It calls home in a dozen ways, some without a switch; without names it reaches nobody.
    "network.dns.disabled": True,
    "browser.sessionstore.resume_from_crash": False,
    "browser.shell.checkDefaultBrowser": False,
    "browser.startup.homepage": "about:blank",
    "browser.startup.page": 0,
    "datareporting.policy.dataSubmissionEnabled": False,
    "toolkit.telemetry.unified": False,
}


class BrowserError(Exception):
    """The page threw, the browser refused a command, or it did not answer in time."""


class Browser(ABC):
    """One headless browser with one page, the same in the eyes of a test whichever it is."""

    name: str

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.console: list[str] = []
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._last_id = 0

    @abstractmethod
    async def attach(self, http: aiohttp.ClientSession, profile: Path) -> None:
        """Connect to the started browser and to its page; waits until it listens."""

    @abstractmethod
    async def goto(self, url: str) -> None:
        """Load `url`; returns after the page's load event. Raises BrowserError."""

    @abstractmethod
    async def _evaluate_text(self, expression: str) -> str:
        """The string to which `expression` resolves in the page. Raises BrowserError."""

    @abstractmethod
    def _on_event(self, method: str, params: dict[str, Any]) -> None:
        """Keep what an event says, if it says something to keep."""

    @abstractmethod
    def _envelope(self) -> dict[str, Any]:
        """What every command carries besides id, method and params."""

    async def evaluate(self, expression: str) -> Any:
        """The JSON value of a JavaScript expression; a promise is awaited, undefined is None.

        Raises BrowserError with the page's message when the page throws.
        """
        # JSON inside the page, so that both protocols hand back plain Python values alike.
        text = await self._evaluate_text(
            f"(async () => JSON.stringify((await ({expression}\n)) ?? null))()"
        )
        return json.loads(text)

    async def wait_for(self, expression: str, timeout_s: float) -> Any:
        """The first truthy value of `expression`; raises BrowserError after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while True:
            value = await self.evaluate(expression)
            if value:
                return value
            if time.monotonic() > deadline:
                tail = " | ".join(self.console[-5:])
                raise BrowserError(
                    f"{self.name}: not within {timeout_s} s: {expression} "
                    f"(last value {value!r}; console: {tail})"
                )
            await asyncio.sleep(POLL_S)

    async def command(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command of the browser's own protocol and return its result."""
        assert self._socket is not None, "attach() comes first"
        self._last_id += 1
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[self._last_id] = answer
        message = {"id": self._last_id, "method": method, "params": params, **self._envelope()}
        try:
            await self._socket.send_json(message)
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                return await answer
        except (TimeoutError, ConnectionError) as error:
            raise BrowserError(f"{self.name}: no answer to {method}: {error!r}") from error
        finally:
            self._waiting.pop(message["id"], None)

    async def close(self) -> None:
        """Let go of the WebSocket; the process is ended by whoever started it."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        if self._socket is not None:
            await self._socket.close()

    async def _connect(self, http: aiohttp.ClientSession, url: str) -> None:
        self._socket = await http.ws_connect(url, max_msg_size=MAX_MESSAGE_BYTES)
        self._reader = asyncio.create_task(self._read(self._socket))

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            answer = json.loads(message.data)
            waiter = self._waiting.get(answer.get("id", 0))
            if waiter is None:
                if "method" in answer:
                    self._on_event(answer["method"], answer["params"])
            elif waiter.done():
                pass  # its caller has given up
            elif "error" in answer:
                text = answer.get("message") or answer["error"]
                waiter.set_exception(BrowserError(f"{self.name}: {text}"))
            else:
                waiter.set_result(answer["result"])
        for waiter in self._waiting.values():
            if not waiter.done():
                waiter.set_exception(BrowserError(f"{self.name}: the browser has gone"))


class Chromium(Browser):
    """Chromium over the DevTools protocol."""

    name = "chromium"
    _session = ""

    async def attach(self, http: aiohttp.ClientSession, profile: Path) -> None:
        port, path = (await _written(profile / "DevToolsActivePort", self.pid, _two_lines))[:2]
        await self._connect(http, f"ws://127.0.0.1:{port}{path}")
        target = (await self.command("Target.createTarget", url="about:blank"))["targetId"]
        attached = await self.command("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            await self.command(f"{domain}.enable")

    async def goto(self, url: str) -> None:
        answer = await self.command("Page.navigate", url=url)
        if answer.get("errorText"):
            raise BrowserError(f"{self.name}: {url}: {answer['errorText']}")
        await self.wait_for("document.readyState === 'complete'", COMMAND_TIMEOUT_S)

    async def _evaluate_text(self, expression: str) -> str:
        answer = await self.command(
            "Runtime.evaluate", expression=expression, awaitPromise=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            thrown = details.get("exception", {})
            text = thrown.get("description") or thrown.get("value") or details["text"]
            raise BrowserError(f"{self.name}: {text}")
        return str(answer["result"]["value"])

    def _on_event(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.consoleAPICalled":
            words = (str(a.get("value", a.get("description", ""))) for a in params["args"])
            self.console.append(f"{params['type']}: {' '.join(words)}")
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            text = details.get("exception", {}).get("description", details["text"])
            self.console.append(f"exception: {text}")
        elif method == "Log.entryAdded":
            self.console.append(f"{params['entry']['level']}: {params['entry']['text']}")

    def _envelope(self) -> dict[str, Any]:
        return {"sessionId": self._session} if self._session else {}


class Firefox(Browser):
    """Firefox over WebDriver BiDi, without geckodriver."""

    name = "firefox"
    _context = ""

    async def attach(self, http: aiohttp.ClientSession, profile: Path) -> None:
        where = await _written(profile / "WebDriverBiDiServer.json", self.pid, json.loads)
        await self._connect(http, f"ws://127.0.0.1:{where['ws_port']}/session")
        await self.command("session.new", capabilities={})
        await self.command("session.subscribe", events=["log.entryAdded"])
        tree = await self.command("browsingContext.getTree", maxDepth=0)
        self._context = tree["contexts"][0]["context"]

    async def goto(self, url: str) -> None:
        await self.command(
            "browsingContext.navigate", context=self._context, url=url, wait="complete"
        )

    async def _evaluate_text(self, expression: str) -> str:
        answer = await self.command(
            "script.evaluate",
            expression=expression,
            target={"context": self._context},
            awaitPromise=True,
            userActivation=True,
        )
        if answer["type"] == "exception":
            raise BrowserError(f"{self.name}: {answer['exceptionDetails']['text']}")
        return str(answer["result"]["value"])

    def _on_event(self, method: str, params: dict[str, Any]) -> None:
        if method == "log.entryAdded":
            self.console.append(f"{params['level']}: {params['text']}")

    def _envelope(self) -> dict[str, Any]:
        return {}


@contextlib.asynccontextmanager
async def chromium(
    *, voice: Path | None = None, flags: Sequence[str] = ()
) -> AsyncIterator[Browser]:
    """Chromium with a fake microphone that plays the WAV file `voice`, looped, or beeps."""
    assert CHROMIUM, "chromium is not installed"
    more = [*flags, f"--use-file-for-fake-audio-capture={voice}"] if voice else list(flags)
    with _home() as home:
        profile = home / "profile"
        command = [CHROMIUM, *CHROMIUM_FLAGS, f"--user-data-dir={profile}", *more, "about:blank"]
        async with _running(command, home, profile, Chromium) as browser:
            yield browser


@contextlib.asynccontextmanager
async def firefox(
    *,
    voice_hz: int = 1000,
    loopback: bool = True,
    prefs: Mapping[str, bool | int | str] | None = None,
) -> AsyncIterator[Browser]:
    """Firefox with a fake microphone that hums at `voice_hz`.

    Firefox ignores loopback candidates unless `loopback`.
    """
    assert FIREFOX, "firefox is not installed"
    values = {
        **FIREFOX_PREFS,
        "media.navigator.audio.fake_frequency": voice_hz,
        "media.peerconnection.ice.loopback": loopback,
        **(prefs or {}),
    }
    with _home() as home:
        profile = home / "profile"
        lines = [f"user_pref({json.dumps(k)}, {json.dumps(v)});\n" for k, v in values.items()]
        (profile / "user.js").write_text("".join(lines))
        command = [FIREFOX, "--headless", "--no-remote", "--profile", str(profile)]
        command += ["--remote-debugging-port", "0", "about:blank"]
        async with _running(command, home, profile, Firefox) as browser:
            yield browser


@contextlib.contextmanager
def _home() -> Iterator[Path]:
    """A fresh HOME that holds the profile: Firefox refuses a HOME of another user."""
    home = Path(tempfile.mkdtemp(prefix="voicerelay-browser-"))
    (home / "profile").mkdir()
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextlib.asynccontextmanager
async def _running(
    command: Sequence[str], home: Path, profile: Path, kind: Callable[[int], Browser]
) -> AsyncIterator[Browser]:
    """The started and attached browser; its whole process group is gone afterwards."""
    # A killed test run takes its browsers along: setpriv ends them with the thread that runs this.
    guard = shutil.which("setpriv")
    env = {
        **{k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "LC_ALL", "TMPDIR")},
        "HOME": str(home),
        "MOZ_CRASHREPORTER_DISABLE": "1",
    }
    with open(home / "output", "wb") as output:
        process = await asyncio.create_subprocess_exec(
            *([guard, "--pdeathsig", "KILL"] if guard else []),
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=env,
        )
    browser = kind(process.pid)
    try:
        async with aiohttp.ClientSession() as http:
            try:
                await browser.attach(http, profile)
            except (BrowserError, aiohttp.ClientError, TimeoutError) as error:
                said = (home / "output").read_text(errors="replace")[-2000:]
                raise BrowserError(f"{browser.name} did not start: {error!r}\n{said}") from error
            try:
                yield browser
            finally:
                await browser.close()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        async with asyncio.timeout(EXIT_TIMEOUT_S):
            await process.wait()


def _two_lines(text: str) -> list[str]:
    lines = text.splitlines()
    if len(lines) < 2:
        raise ValueError("not yet complete")
    return lines


async def _written(path: Path, pid: int, parse: Callable[[str], Any]) -> Any:
    """What `parse` makes of the file once the browser has written it completely."""
    async with asyncio.timeout(START_TIMEOUT_S):
        while True:
            with contextlib.suppress(FileNotFoundError, ValueError):
                return parse(path.read_text())
            if not Path(f"/proc/{pid}").exists():
                raise BrowserError("the browser exited while starting")
            await asyncio.sleep(POLL_S)
