"""One call from its first check to its end, over a fake control and a real socket to the client."""

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from tests.unit.transceiver.signalling.test_offer import CHROMIUM
from voicerelay.shm import stun
from voicerelay.shm.counters import BLOCK_BYTES, Block, TransceiverCounter
from voicerelay.shm.path import pack_path
from voicerelay.shm.table import Entry
from voicerelay.shm.ufrag import make_ufrag
from voicerelay.transceiver.agent import Agent, Request, Session
from voicerelay.transceiver.directory import CONTROL_GONE, Directory, DirectoryError
from voicerelay.transceiver.ice import IceAgent
from voicerelay.transceiver.mux import Mux
from voicerelay.transceiver.reach import MAX_PENDING_CHECKS, MAX_PENDING_PATHS
from voicerelay.transceiver.seam import Peer
from voicerelay.transceiver.session import (
    LiveSession,
    State,
)
from voicerelay.transceiver.signalling.offer import check_offer
from voicerelay.transceiver.voice.pacer import Pacer
from voicerelay.transceiver.voice.rtp import RtpPacket, build_rtp

WAIT_S = 10.0
OPUS, OURS, THEIRS = 111, 0x0A0A0A0A, 0x0B0B0B0B
ALERT = bytes.fromhex("15fefd0000000000000000000202 28".replace(" ", ""))
HANDSHAKE = b"\x16\xfe\xfd" + bytes(40)
Counter = TransceiverCounter


class FakeDirectory(Directory):
    """A control that says yes at once, or no, or nothing until `answer_all`."""

    def __init__(self) -> None:
        self.routes: dict[bytes, int] = {}
        self.flows: dict[bytes, int] = {}
        self.error = ""
        self.holding = False
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.waiting: list[tuple[bytes, int, Callable[[str], None]]] = []
        self.share({}, 0)

    def share(self, table: dict[bytes, int], slot: int) -> None:
        """Use the route table of several transceivers: key -> slot."""
        self._table, self._slot = table, slot

    def find(self, key: bytes) -> Entry | None:
        """As the route table's reader does."""
        slot = self._table.get(key)
        return None if slot is None else Entry(slot, 1, 0, 0)

    @property
    def available(self) -> bool:
        return self.error != CONTROL_GONE

    async def register(self, ufrag: bytes, session: int) -> None:
        await self.go_on.wait()
        if self.error:
            raise DirectoryError(self.error)
        if self._table.setdefault(ufrag, self._slot) != self._slot:
            raise DirectoryError("ufrag belongs to another transceiver")
        self.routes[ufrag] = session

    def commit(self, path: bytes, session: int, done: Callable[[str], None]) -> None:
        self.waiting.append((path, session, done))
        if not self.holding:
            self.answer_all()

    def answer_all(self) -> None:
        waiting, self.waiting = self.waiting, []
        for path, session, done in waiting:
            if not self.error:
                self.flows[path] = session
            done(self.error)

    def unregister(self, ufrag: bytes) -> None:
        if self.routes.pop(ufrag, None) is not None:
            self._table.pop(ufrag, None)

    def release(self, path: bytes, session: int) -> None:
        if self.flows.get(path) == session:
            del self.flows[path]


class Host:
    """What a session needs around it, and clients that talk to it."""

    def __init__(self) -> None:
        self.block = Block(memoryview(bytearray(BLOCK_BYTES)).cast("Q"))
        self.mux = Mux(asyncio.get_running_loop(), self.block)
        self.directory = FakeDirectory()
        self.public = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.public.bind(("127.0.0.1", 0))
        self.mux.use_public([self.public], steered=True)
        self.candidates: list[tuple[str, int]] = [self.public.getsockname()]
        self.pacer = Pacer(asyncio.get_running_loop())
        self.sessions: list[LiveSession] = []
        self.clients: list[Client] = []

    def unopened(self, public_id: str, number: int, agent: Agent) -> LiveSession:
        """A session that has not seen its offer."""
        where = self.mux, self.directory, self.candidates
        return LiveSession(public_id, number, agent, *where, self.pacer, Request())

    async def session(self, agent: Agent | None = None) -> LiveSession:
        """An answered session; its default agent listens for ever."""
        number = len(self.sessions) + 1
        session = self.unopened(f"session-{number}", number, agent or listen)
        await session.open(check_offer(CHROMIUM), make_ufrag(b"k" * 32, 0, 0))
        self.sessions.append(session)
        return session

    def client(self) -> "Client":
        self.clients.append(Client(self))
        return self.clients[-1]

    def dropped(self) -> dict[Counter, int]:
        return {c: self.block.get(c) for c in Counter if c.name[:4] == "DROP" and self.block.get(c)}

    def balance(self) -> tuple[int, int]:
        """Received, and delivered + all that was dropped."""
        out = self.block.get(Counter.PACKETS_DELIVERED) + sum(self.dropped().values())
        return self.block.get(Counter.PACKETS_RECEIVED), out


class Client:
    """A client address."""

    _numbers = itertools.count(1)

    def __init__(self, host: Host) -> None:
        self._host = host
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.setblocking(False)
        self.path = pack_path(0, *self.sock.getsockname())

    def send(self, data: bytes) -> None:
        """As a relay brings it."""
        self._host.mux.dispatch(data, self.path, 0)

    def check(self, session: LiveSession, nominate: bool = False, password: str = "") -> None:
        username = f"{session.ufrag}:{ice_of(session).credentials.remote_ufrag.decode()}"
        attributes = [(stun.USERNAME, username.encode())]
        if nominate:
            attributes.append((stun.USE_CANDIDATE, b""))
        transaction = next(self._numbers).to_bytes(12, "big")
        key = (password or session.password).encode()
        self.send(stun.build(stun.BINDING_REQUEST, transaction, attributes, key))

    def received(self) -> list[bytes]:
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self.sock.recv(2048))
        return found

    def replies(self) -> int:
        """Binding responses that have come."""
        return sum(data[:2] == b"\x01\x01" for data in self.received())


def ice_of(session: LiveSession) -> IceAgent:
    assert session._reach.ice is not None
    return session._reach.ice


async def listen(session: Session) -> None:
    async for _ in session.packets():
        pass


@contextlib.asynccontextmanager
async def host() -> AsyncIterator[Host]:
    made = Host()
    try:
        yield made
    finally:
        async with asyncio.timeout(WAIT_S):
            for session in made.sessions:
                session.end("the test is over")
                await session.ended.wait()
        made.mux.close()
        for client in made.clients:
            client.sock.close()


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not happened():
            await asyncio.sleep(0)


def decrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let media pass as if it had been decrypted and will be encrypted."""
    monkeypatch.setattr(Peer, "unprotect", lambda _self, data, rtcp: data)
    monkeypatch.setattr(Peer, "protect", lambda _self, data, rtcp: data)


async def talking(
    here: Host, monkeypatch: pytest.MonkeyPatch, agent: Agent
) -> tuple[LiveSession, "Client"]:
    """A call whose media is not encrypted."""
    decrypt(monkeypatch)
    session, client = await here.session(agent), here.client()
    client.check(session, nominate=True)
    session.media_started(OPUS, OURS)
    return session, client


def voice(number: int) -> bytes:
    return build_rtp(RtpPacket(False, OPUS, number, number * 960, THEIRS, b"opus%d" % number))


# ---- checks and flows ----------------------------------------------------------------------------


def test_a_reply_leaves_only_after_its_flow_stands_in_the_table() -> None:
    async def run() -> None:
        async with host() as here:
            # given a control that takes its time
            session, client = await here.session(), here.client()
            here.directory.holding = True

            # when an authenticated check comes, nothing happens yet (law 2)
            client.check(session)
            assert (client.replies(), here.mux.by_path, ice_of(session).selected) == (0, {}, None)

            # when the flow is written, the reply follows, and the next one needs no control
            here.directory.answer_all()
            assert client.replies() == 1
            assert here.mux.by_path == {client.path: session}
            client.check(session)
            assert client.replies() == 1

    asyncio.run(run())


def test_a_check_without_a_flow_is_not_answered_and_counted_once() -> None:
    async def run() -> None:
        async with host() as here:
            session, client = await here.session(), here.client()
            here.directory.error = "the flow table is full"

            client.check(session)

            assert client.replies() == 0
            assert here.dropped() == {Counter.DROPPED_CONTROL_UNAVAILABLE: 1}
            assert here.balance() == (1, 1)  # received = delivered + all that is dropped

    asyncio.run(run())


def test_what_waits_for_control_is_bounded_a_path_and_in_paths() -> None:
    async def run() -> None:
        async with host() as here:
            # given a control that does not answer
            session = await here.session()
            here.directory.holding = True
            clients = [here.client() for _ in range(MAX_PENDING_PATHS + 1)]

            # when one address checks too often, and too many addresses check
            for _ in range(MAX_PENDING_CHECKS + 2):
                clients[0].check(session)
            for client in clients[1:]:
                client.check(session)

            # then the rest is dropped, and what waited is answered later
            assert here.dropped() == {Counter.DROPPED_QUEUE_FULL: 3}
            here.directory.answer_all()
            assert [client.replies() for client in clients] == (
                [MAX_PENDING_CHECKS] + [1] * (MAX_PENDING_PATHS - 1) + [0]
            )

    asyncio.run(run())


def test_an_authenticated_check_takes_a_path_over_from_another_session() -> None:
    async def run() -> None:
        async with host() as here:
            # given a NAT port that a first client has left, and a second one has got
            first, second, client = await here.session(), await here.session(), here.client()
            client.check(first, nominate=True)
            assert here.mux.by_path == {client.path: first}

            # when the second one's check comes
            client.check(second)

            # then the path is its own, in every place
            assert here.mux.by_path == {client.path: second}
            assert here.directory.flows == {client.path: second.number}
            assert (ice_of(first).selected, list(ice_of(first).valid)) == (None, [])
            client.send(ALERT)
            first.end("gone")
            await first.ended.wait()
            assert here.directory.flows == {client.path: second.number}

    asyncio.run(run())


def test_a_forged_check_takes_nothing_over_and_is_not_answered() -> None:
    async def run() -> None:
        async with host() as here:
            first, second, client = await here.session(), await here.session(), here.client()
            client.check(first)
            assert client.replies() == 1

            client.check(second, password="guessed")

            assert client.replies() == 0
            assert here.mux.by_path == {client.path: first}
            assert here.dropped() == {Counter.DROPPED_BAD_INTEGRITY: 1}

    asyncio.run(run())


def test_only_what_the_guard_lets_through_reaches_dtls() -> None:
    async def run() -> None:
        async with host() as here:
            session, client, stranger = await here.session(), here.client(), here.client()
            client.check(session)

            client.send(ALERT)
            client.send(b"\x16short")
            here.mux.by_path[stranger.path] = session  # a stale entry
            stranger.send(HANDSHAKE)

            assert here.dropped() == {
                Counter.DROPPED_PLAINTEXT_ALERT: 1,
                Counter.DROPPED_NOT_WEBRTC: 1,
                Counter.DROPPED_UNVALIDATED_PATH: 1,
            }
            assert here.balance() == (4, 4)
            assert session.state is State.CHECKING

    asyncio.run(run())


def test_a_flood_of_handshakes_leaves_nothing_waiting() -> None:
    async def run() -> None:
        async with host() as here:
            session, client = await here.session(), here.client()
            client.check(session)

            for _ in range(100):
                client.send(HANDSHAKE)

            assert here.dropped() == {}
            assert session.state is State.CHECKING

    asyncio.run(run())
