"""Control's socket: who may speak, how long a half message may wait, and what it costs the others."""

import asyncio
import os
import secrets
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from voicerelay.control import server as module
from voicerelay.control import state as state_module
from voicerelay.control.server import ControlServer
from voicerelay.control.state import ControlState
from voicerelay.shm import protocol
from voicerelay.shm.channel import Channel
from voicerelay.shm.counters import HEARTBEAT_NS
from voicerelay.shm.protocol import PROTOCOL, RELAY, TRANSCEIVER, Message, encode
from voicerelay.shm.region import ABI, MIN_CAPACITY, Region, Sizes, remove_segments
from voicerelay.shm.rundir import SOCKET_MODE

PATIENCE_S = 10.0
NOBODY = 65534
HELLO = encode(protocol.Hello(PROTOCOL, ABI, TRANSCEIVER, 0, 0, []))

# Says hello as another user, then tells whether it was heard.
STRANGER = """
import os, socket, sys
sock = socket.socket(socket.AF_UNIX)
os.chdir(sys.argv[1])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
sock.connect("control.sock")
sock.settimeout(10)
try:
    sock.send(bytes.fromhex(sys.argv[3]))
    print(len(sock.recv(1000)) > 0)
except OSError:
    print(False)
"""
# A relay that says hello and then does nothing any more.
HANGING = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
sock.send(bytes.fromhex(sys.argv[2]))
sys.stdin.read()
"""


class Peer:
    """A client of control and what it was told."""

    def __init__(self, path: Path, hello: protocol.Hello | None = None) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(path))
        self.messages: list[Message] = []
        self.fds: list[int] = []
        self.closed = asyncio.Event()
        self.channel = Channel(self.sock, self._message, lambda _: self.closed.set())
        if hello is not None:
            self.channel.send(hello)

    def _message(self, message: Message, fds: list[int]) -> None:
        self.messages.append(message)
        self.fds += fds

    def drop(self) -> None:
        self.channel.close()
        for fd in self.fds:
            os.close(fd)


class Running:
    """A control server and its peers, within one event loop."""

    def __init__(self, region: Region, path: Path) -> None:
        self.region = region
        self.path = path
        self.public = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
        sockets = {(RELAY, index): [sock.fileno()] for index, sock in enumerate(self.public)}
        self.state = ControlState(region, len(self.public), 0.0)
        self.server = ControlServer(self.state, path, sockets)
        self.server.start()
        self.peers: list[Peer] = []

    def peer(self, hello: protocol.Hello | None = None) -> Peer:
        self.peers.append(Peer(self.path, hello))
        return self.peers[-1]

    def transceiver(self, slot: int = 0) -> Peer:
        return self.peer(protocol.Hello(PROTOCOL, ABI, TRANSCEIVER, slot, 0, []))

    async def stop(self) -> None:
        """End every connection, and hold that control kept nothing of them."""
        for peer in self.peers:
            peer.drop()
        await until(lambda: not self.server._connections)
        asyncio.get_running_loop().remove_reader(self.server._listener.fileno())
        self.server._listener.close()
        for sock in self.public:
            sock.close()


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.001)


@pytest.fixture
def region() -> Iterator[Region]:
    name = f"vrtest-{secrets.token_hex(6)}"
    yield Region.create(name, bytes(16), Sizes.for_capacity(MIN_CAPACITY))
    remove_segments(name)


Scenario = Callable[[Running], Awaitable[None]]
Serve = Callable[[Scenario], None]


@pytest.fixture
def serve(region: Region, tmp_path: Path) -> Serve:
    """Run a scenario beside a control; no descriptor may be left over."""

    async def run(scenario: Scenario) -> None:
        running = Running(region, tmp_path / "control.sock")
        try:
            await scenario(running)
        finally:
            await running.stop()

    def check(scenario: Scenario) -> None:
        before = set(os.listdir("/proc/self/fd"))
        asyncio.run(run(scenario))
        assert set(os.listdir("/proc/self/fd")) <= before

    return check


def test_the_socket_is_not_for_others(serve: Serve) -> None:
    async def scenario(running: Running) -> None:
        assert stat.S_IMODE(running.path.stat().st_mode) == SOCKET_MODE

    serve(scenario)


def test_a_leftover_socket_is_replaced(serve: Serve, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(tmp_path / "control.sock"))

    async def scenario(running: Running) -> None:
        peer = running.transceiver()
        await until(lambda: peer.messages)

    serve(scenario)


def test_a_peer_is_welcomed_with_its_public_socket(serve: Serve) -> None:
    async def scenario(running: Running) -> None:
        peer = running.peer(protocol.Hello(PROTOCOL, ABI, RELAY, 1, 0, []))
        await until(lambda: peer.messages)

        assert isinstance(peer.messages[0], protocol.Welcome)
        assert os.fstat(peer.fds[0]).st_ino == os.fstat(running.public[1].fileno()).st_ino

    serve(scenario)


def test_a_request_is_answered(serve: Serve) -> None:
    async def scenario(running: Running) -> None:
        peer = running.transceiver()

        peer.channel.send(protocol.RegisterRoute(5, b"u" * 20, 1))
        await until(lambda: len(peer.messages) == 2)

        assert peer.messages[1] == protocol.Done(5, "")
        assert running.region.route_reader().find(b"u" * 20) is not None

    serve(scenario)


def test_what_a_dead_peer_owned_is_swept_in_many_turns(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_module, "MAX_SWEPT", 1)

    async def scenario(running: Running) -> None:
        # given the routes of two transceivers, of which one dies
        for slot in range(2):
            peer = running.transceiver(slot)
            for number in range(4):
                peer.channel.send(protocol.RegisterRoute(number, b"%010d%010d" % (slot, number), 1))
        await until(lambda: all(len(peer.messages) == 5 for peer in running.peers))

        running.peers[0].drop()
        running.peers[0].fds.clear()
        routes = running.region.route_reader()
        await until(lambda: not any(routes.find(b"%010d%010d" % (0, n)) for n in range(4)))

        assert all(routes.find(b"%010d%010d" % (1, n)) for n in range(4))

    serve(scenario)


def test_a_refused_peer_hears_why_and_is_closed(serve: Serve) -> None:
    async def scenario(running: Running) -> None:
        peer = running.peer(protocol.Hello(PROTOCOL + 1, ABI, RELAY, 0, 0, []))
        await until(peer.closed.is_set)

        (message,) = peer.messages
        assert isinstance(message, protocol.Refused)

    serve(scenario)


@pytest.mark.parametrize("message", [protocol.ReplayDone(), protocol.Adopt(0)])
def test_who_does_not_begin_with_hello_is_closed(serve: Serve, message: Message) -> None:
    async def scenario(running: Running) -> None:
        peer = running.peer()

        peer.channel.send(message)
        await until(peer.closed.is_set)

        assert peer.messages == []

    serve(scenario)


STRANGE = {
    "4 GiB": b"\xff\xff\xff\xff",
    "nil": b"\x00\x00\x00\x01\xc0",
    "HTTP": b"GET / HTTP/1.1",
    "nested": protocol.LENGTH.pack(60_000) + b"\x91" * 60_000,
    "an array of 4 G": protocol.LENGTH.pack(5) + b"\xdd\xff\xff\xff\xff",
}


@pytest.mark.parametrize("data", STRANGE.values(), ids=STRANGE)
def test_who_speaks_another_language_is_closed(serve: Serve, data: bytes) -> None:
    async def scenario(running: Running) -> None:
        peer, other = running.peer(), running.transceiver(1)

        peer.sock.send(data)
        other.channel.send(protocol.RegisterRoute(5, b"u" * 20, 1))

        await until(peer.closed.is_set)
        await until(lambda: len(other.messages) == 2)  # nobody else waits for that

    serve(scenario)


@pytest.mark.parametrize("said", [b"", HELLO[:3], HELLO[:-1], HELLO + HELLO[:5]])
def test_half_a_message_waits_until_the_read_deadline_only(
    serve: Serve, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_DEADLINE_S", 0.1)

    async def scenario(running: Running) -> None:
        peer = running.peer()

        peer.sock.send(said)

        await until(peer.closed.is_set)

    serve(scenario)


def test_a_welcomed_peer_may_be_silent(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_DEADLINE_S", 0.1)

    async def scenario(running: Running) -> None:
        # given a welcomed peer that is silent, and one that is closed by its deadline meanwhile
        quiet = running.transceiver()
        await until(lambda: quiet.messages)

        late = running.peer()
        await until(late.closed.is_set)

        assert not quiet.closed.is_set()

    serve(scenario)


def test_others_are_served_beside_a_half_message(serve: Serve) -> None:
    async def scenario(running: Running) -> None:
        # given one peer in the middle of a message
        half = running.peer()
        half.sock.send(HELLO[:3])

        peer = running.transceiver(1)
        for number in range(50):
            peer.channel.send(protocol.RegisterRoute(number, b"%020d" % (number % 8), 1))
        await until(lambda: len(peer.messages) == 51)

        assert not half.closed.is_set()

    serve(scenario)


def test_more_connections_than_the_limit_are_closed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 3)

    async def scenario(running: Running) -> None:
        # given as many connections as there may be
        peers = [running.transceiver(slot) for slot in range(3)]
        await until(lambda: all(peer.messages for peer in peers))

        beyond = running.transceiver(3)
        await until(beyond.closed.is_set)
        peers[0].drop()
        peers[0].fds.clear()
        await until(lambda: len(running.server._connections) == 2)
        later = running.transceiver(4)
        await until(lambda: later.messages)

        assert beyond.messages == []
        assert not any(peer.closed.is_set() for peer in peers[1:])

    serve(scenario)


@pytest.mark.parametrize("uid", [0, NOBODY])
def test_only_this_user_and_root_are_heard(serve: Serve, uid: int) -> None:
    uid = uid if os.geteuid() == 0 else os.geteuid()  # else there is nobody else to be

    async def scenario(running: Running) -> None:
        # given a socket and a way to it that would let anybody in
        running.path.chmod(0o666)
        running.path.parent.chmod(0o711)

        process = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-P",
                "-c",
                STRANGER,
                str(running.path.parent),
                str(uid),
                HELLO.hex(),
            ),
            stdout=subprocess.PIPE,
        )
        heard, _ = await process.communicate()

        assert heard.strip() == str(uid == os.geteuid()).encode()

    serve(scenario)


@pytest.mark.parametrize("message", [protocol.Adopt(0), protocol.RegisterRoute(1, b"u" * 20, 1)])
def test_descriptors_sent_to_control_are_closed(serve: Serve, message: Message) -> None:
    async def scenario(running: Running) -> None:
        # given a welcomed peer that sends the writing end of a pipe
        peer = running.transceiver()
        await until(lambda: peer.messages)
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(reader, ended.set)

        peer.channel.send(message, [writer])
        os.close(writer)

        try:
            await asyncio.wait_for(ended.wait(), 2)
        finally:
            loop.remove_reader(reader)
            os.close(reader)

    serve(scenario)


def test_a_hung_relay_is_ended_for_good(serve: Serve) -> None:
    async def scenario(running: Running) -> None:
        # given a relay process whose heart does not beat
        running.region.counters.relay(0).words[HEARTBEAT_NS] = 1
        hello = encode(protocol.Hello(PROTOCOL, ABI, RELAY, 0, 0, []))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-c", HANGING, str(running.path), hello.hex()),
            stdin=subprocess.PIPE,
        )

        async with asyncio.timeout(PATIENCE_S):
            code = await process.wait()

        assert code == -signal.SIGKILL

    serve(scenario)


def test_the_tick_beats_controls_heart(serve: Serve) -> None:
    async def scenario(running: Running) -> None:
        block = running.region.counters.control()
        block.words[HEARTBEAT_NS] = 1

        await until(lambda: block.heartbeat_ns > 1)

    serve(scenario)
