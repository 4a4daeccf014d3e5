"""The load test, tested: `python bench/loadtest.py`.

--against-stock: what a caller of `voicerelay loadtest` costs beside one of stock aiortc that does the same: both
talk all the time to the same server, which echoes; CPU of their processes for a minute of a call, set-up included.
--fill N: N calls to agents that listen, on this machine; nothing may be dropped, and the tool's count of datagrams
must agree within 2 % with the server's, and with the kernel's where it can be asked (root, and nft): a table of
nftables that only counts.
"""

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import aiohttp
import aioice.ice
import psutil
import uvloop
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack, MediaStreamError, MediaStreamTrack
from av import AudioFrame

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.server import Server, server
from voicerelay import App, Session
from voicerelay.cli.loadtest.speech import RATE, voice
from voicerelay.cli.status import read_status
from voicerelay.transceiver.voice.opus import FRAME_S

RESULTS = ROOT / "bench" / "results" / "loadtest.json"
FRAME = round(RATE * FRAME_S)
MOST_OF_STOCK = 0.25  # what a caller may cost
AGREEMENT = 0.02
GRACE_S = 120
TALK = 0.2  # of the filling calls: callers that mostly listen

TABLE = "voicerelay_bench"

listener = App()  # `bench.loadtest:listener`


@listener.session
async def listen(session: Session) -> None:
    """Takes every packet, says nothing."""
    async for _ in session.packets():
        pass


class Voice(AudioStreamTrack):
    """The tool's signal as PCM, in time."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._at = number * 37
        self._given = 0
        self._began = 0.0

    async def recv(self) -> AudioFrame:
        self._began = self._began or time.monotonic()
        await asyncio.sleep(max(0.0, self._began + self._given * FRAME_S - time.monotonic()))
        pcm = voice()
        start = (self._at + self._given) * FRAME % len(pcm)
        frame = AudioFrame.from_ndarray(
            pcm[start : start + FRAME].reshape(1, -1), format="s16", layout="mono"
        )
        frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
        frame.pts = self._given * FRAME
        self._given += 1
        return frame


async def hear(track: MediaStreamTrack) -> None:
    with contextlib.suppress(MediaStreamError):
        while True:
            await track.recv()


async def stock_call(http: aiohttp.ClientSession, url: str, number: int, until: float) -> float:
    """One caller of stock aiortc; gives the seconds that it was up."""
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    up = asyncio.Event()
    ears: list[asyncio.Task[None]] = []

    @pc.on("connectionstatechange")
    def changed() -> None:
        if pc.connectionState == "connected":
            up.set()

    @pc.on("track")
    def came(track: MediaStreamTrack) -> None:
        ears.append(asyncio.ensure_future(hear(track)))

    pc.addTrack(Voice(number))
    await pc.setLocalDescription(await pc.createOffer())
    headers = {"Content-Type": "application/sdp"}
    async with http.post(url, data=pc.localDescription.sdp, headers=headers) as response:
        answer = await response.text()
        assert response.status == 201, answer
    await pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    await asyncio.wait_for(up.wait(), 20)
    began = time.monotonic()
    await asyncio.sleep(max(0.0, until - began))
    lasted = time.monotonic() - began
    await pc.close()
    for ear in ears:
        ear.cancel()
    return lasted


async def stock_calls(url: str, calls: int, seconds: float) -> None:
    """`python bench/loadtest.py --stock-calls …`: a process of its own; prints what it took."""
    aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]  # loopback only
    voice()
    cpu, until = time.process_time(), time.monotonic() + seconds
    async with aiohttp.ClientSession() as http:
        lasted = await asyncio.gather(*(stock_call(http, url, n, until) for n in range(calls)))
    print(json.dumps({"cpu_s": time.process_time() - cpu, "call_s": sum(lasted)}))


def tool(running: Server, calls: int, seconds: float, *more: str) -> dict[str, Any]:
    """`voicerelay loadtest` and what it tells."""
    command = [sys.executable, "-P", "-m", "voicerelay", "loadtest", running.http_url]
    command += [
        "--run-dir",
        str(running.run_dir),
        "--calls",
        str(calls),
        "--duration",
        str(seconds),
    ]
    done = subprocess.run(
        [*command, "--json", *more],
        check=False, stdout=subprocess.PIPE, text=True, timeout=seconds + GRACE_S,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@contextlib.contextmanager
def kernel_counts(port: int) -> Iterator[Callable[[], dict[str, int]]]:
    """UDP datagrams to and from a port of this host, as nftables counts them; empty where it cannot."""
    rules = f"""table inet {TABLE} {{
        counter received {{ }}
        counter sent {{ }}
        chain output {{
            type filter hook output priority 0;
            udp dport {port} counter name received
            udp sport {port} counter name sent
        }}
    }}"""

    def nft(*arguments: str) -> str:
        done = subprocess.run(
            ["nft", *arguments], input=rules, check=True, capture_output=True, text=True
        )
        return done.stdout

    def counted() -> dict[str, int]:
        listed = json.loads(nft("-j", "list", "counters", "table", "inet", TABLE))["nftables"]
        found = [item["counter"] for item in listed if "counter" in item]
        return {counter["name"]: counter["packets"] for counter in found}

    try:
        nft("-f", "-")
    except (OSError, subprocess.CalledProcessError):
        yield dict
        return
    try:
        yield counted
    finally:
        nft("delete", "table", "inet", TABLE)


def against_stock(calls: int, stock_calls: int, seconds: float) -> dict[str, Any]:
    with server(relays=1, transceivers=1, extra=("--log-level", "warning")) as running:
        ours = tool(running, calls, seconds, "--talk", "1", "--rate", "50")
        command = [
            sys.executable,
            __file__,
            "--stock-calls",
            str(stock_calls),
            "--seconds",
            str(seconds),
        ]
        done = subprocess.run(
            [*command, "--url", running.http_url + "/whip"],
            check=True, stdout=subprocess.PIPE, text=True, timeout=seconds + GRACE_S,
        )  # fmt: skip
    stock = json.loads(done.stdout)
    found: dict[str, Any] = {"calls": calls, "stock_calls": stock_calls, "seconds": seconds}
    for name, one in (("tool", ours["client"]), ("stock", stock)):
        found[f"{name}_cpu_s_per_call_minute"] = round(60 * one["cpu_s"] / one["call_s"], 4)
    found["share"] = round(
        found["tool_cpu_s_per_call_minute"] / found["stock_cpu_s_per_call_minute"], 4
    )
    found["agreement"] = _agreement(ours)
    return found


def fill(calls: int, seconds: float, rate: float, page: str | None) -> dict[str, Any]:
    cores = psutil.cpu_count() or 1
    options = ("--log-level", "warning", "--max-sessions", str(calls))
    app = "bench.loadtest:listener"
    began = time.monotonic()
    more = ["--talk", str(TALK), "--rate", str(rate)] + (["--html", page] if page else [])
    with (
        server(relays=1, transceivers=cores, app=app, extra=options) as running,
        kernel_counts(running.port) as counted,
    ):
        told = tool(running, calls, seconds, *more)
        kernel, status = counted(), read_status(running.run_dir)
    print(running.output, file=sys.stderr)
    kept = (
        "connected", "failed", "dropped", "up_most", "setup_p50", "setup_p99", "client_lag_p99",
        "server_cpu_per_call", "server_rss_per_call", "client_cpu_per_call",
    )  # fmt: skip
    return {
        "calls": calls,
        "seconds": seconds,
        "took_s": round(time.monotonic() - began, 1),
        "talk": TALK,
        **{name: told["metrics"][name] for name in kept},
        "why": told["failed"] | told["dropped"],
        "server_drops": told["server"]["dropped"],
        "server_overflows": sum(one["socket_overflows"] for one in status["transceivers"]),
        "agreement": _agreement(told, kernel),
    }


def _agreement(told: dict[str, Any], kernel: dict[str, int] | None = None) -> dict[str, Any]:
    """Our counts of datagrams beside those of the server, and of the kernel."""
    server, ours = told["server"], told["datagrams"]
    looks = [server, kernel] if kernel else [server]
    return {
        "sent": ours["sent"],
        "server_received": server["received"],
        "received": ours["received"],
        "server_sent": server["sent"],
        **(
            {"kernel_received": kernel["received"], "kernel_sent": kernel["sent"]} if kernel else {}
        ),
        "within": AGREEMENT,
        "agrees": all(
            abs(ours["sent"] / look["received"] - 1) <= AGREEMENT
            and abs(ours["received"] / look["sent"] - 1) <= AGREEMENT
            for look in looks
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="The load test, tested.")
    parser.add_argument("--against-stock", action="store_true")
    parser.add_argument("--fill", type=int, metavar="CALLS")
    parser.add_argument("--calls", type=int, default=50, help="of --against-stock")
    parser.add_argument(
        "--stock", type=int, default=6, help="calls of stock aiortc; a core has about 12"
    )
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rate", type=float, default=20, help="of --fill, calls begun a second")
    parser.add_argument("--html", help="of --fill: the page")
    parser.add_argument("--write", action="store_true", help=f"keep the figures in {RESULTS.name}")
    parser.add_argument("--stock-calls", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stock_calls:
        uvloop.run(stock_calls(options.url, options.stock_calls, options.seconds))
        return
    found: dict[str, Any] = {}
    if options.against_stock:
        found["against_stock"] = against_stock(options.calls, options.stock, options.seconds)
    if options.fill:
        found["fill"] = fill(options.fill, options.seconds, options.rate, options.html)
    print(json.dumps(found, indent=2))
    if options.write:
        before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        RESULTS.write_text(json.dumps(before | found, indent=2) + "\n")
    stock, filled = found.get("against_stock"), found.get("fill")
    bad = stock is not None and stock["share"] > MOST_OF_STOCK
    bad |= filled is not None and bool(filled["failed"] or filled["dropped"])
    bad |= any(not one["agreement"]["agrees"] for one in found.values())
    sys.exit(bad)


if __name__ == "__main__":
    main()
