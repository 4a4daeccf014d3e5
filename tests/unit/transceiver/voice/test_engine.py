"""Voice in C: whose packets it takes, what it leaves to Python, and when it is not there."""

import socket
from collections.abc import Iterator
from typing import Any

import pylibsrtp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pylibsrtp import Policy

from tests.support.voices import OPUS, numbered
from voicerelay.shm.path import address_path, pack_path
from voicerelay.shm.receive import Batch
from voicerelay.transceiver.agent import AudioPacket
from voicerelay.transceiver.voice import LIBRARY, rtp
from voicerelay.transceiver.voice.engine import FULL, Compiled, Engine
from voicerelay.transceiver.voice.line import ffi, new_line
from voicerelay.transceiver.voice.opus import Pcm
from voicerelay.transceiver.voice.outbound import Outbound
from voicerelay.transceiver.voice.path import VoicePath
from voicerelay.transceiver.voice.srtp import Keyed

KEY = bytes(range(30))
LINES, SLOTS, QUEUE = 2048, 4096, 64  # as in voice.h
PATH = pack_path(0, "192.0.2.1", 5004)
HOSTS = ("127.0.0.1", "::1")
needs_library = pytest.mark.skipif(not LIBRARY.exists(), reason="no C compiler was there")


def keyed(direction: int) -> Keyed:
    return Keyed(pylibsrtp.Session(Policy(KEY, direction)))


def pointer(keys: Keyed) -> Any:
    return ffi.cast("void *", keys.state)


class Client:
    """Sends the packets of a voice, each once."""

    def __init__(self) -> None:
        self._tx = keyed(Policy.SSRC_ANY_OUTBOUND)
        self._number = 0

    def packet(self) -> bytes:
        self._number += 1
        secret = self._tx.protect(rtp.build_rtp(numbered(self._number)))
        assert secret is not None
        return secret


class Call:
    """One that listens to nobody: it keeps what the engine gives it. `keys`: of all calls here."""

    def __init__(self, keys: Keyed) -> None:
        self.keys = keys
        self.line = new_line()
        self.line.rx = pointer(keys)
        self.got: list[bytes] = []

    def heard(self, frame: Pcm) -> None:
        raise AssertionError("without an ear")

    def opened(self, data: bytes, at: float) -> None:
        self.got.append(data)


class Talker:
    """One that speaks, by the engine or as the pacer lets it speak without one."""

    def __init__(self, dtx: bool = False) -> None:
        self.voice = VoicePath(7, OPUS, "talker")
        self.outbound = Outbound(self._changed, dtx)
        self.tx = keyed(Policy.SSRC_ANY_OUTBOUND)
        self.voice.line.tx = pointer(self.tx)
        self.mouth.line = self.voice.line
        self.changes = 0
        self.sent: list[bytes] = []  # without the engine

    def _changed(self) -> None:
        self.changes += 1

    @property
    def short_id(self) -> str:
        return "talker"

    @property
    def mouth(self) -> Any:
        return self.outbound.mouth

    def wake(self) -> None:
        self.outbound.wake()

    def encode(self, due: float, load: int) -> bytes | None:
        return self.outbound.next_frame(due, load)

    def send(self, payload: bytes, due: float) -> None:
        self._send(self.voice.frame(payload, due))

    def send_packet(self, packet: AudioPacket, now: float) -> None:
        """An agent's own."""
        self._send(self.voice.packetize(packet, now))

    def _send(self, plain: bytes) -> None:
        secret = self.tx.protect(plain)
        if secret is not None:  # libsrtp sends no number twice
            self.sent.append(secret)

    def end(self, reason: str) -> None:
        raise AssertionError(reason)

    def heard(self, frame: Pcm) -> None:
        raise AssertionError("it only speaks")

    def opened(self, data: bytes, at: float) -> None:
        raise AssertionError("it only speaks")


class Line:
    """A public socket, and a client's behind it."""

    def __init__(self, host: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.public, self.client = (socket.socket(family, socket.SOCK_DGRAM) for _ in range(2))
        for sock in (self.public, self.client):
            sock.bind((host, 0))
            sock.setblocking(False)
        self.path = address_path(0, self.client.getsockname())
        self.fds = [(self.public.fileno(), family == socket.AF_INET6)]

    def received(self) -> Iterator[bytes]:
        try:
            while True:
                yield self.client.recv(2048)
        except BlockingIOError:
            return

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, *_: object) -> None:
        self.public.close()
        self.client.close()


def taken(compiled: Compiled, calls: list[Call], data: bytes, by: bytes) -> int | None:
    """Which of the calls is given a packet that came by this path; None when the engine left it."""
    if not compiled.take(data, by):
        return None
    compiled.hand_on()
    (index,) = (index for index, call in enumerate(calls) if call.got)
    calls[index].got.clear()
    return index


# ---- paths ---------------------------------------------------------------------------------------


def place(by: bytes) -> int:
    """As voice.c's place_of."""
    value = 0xCBF29CE484222325
    for byte in by:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return (value ^ value >> 32) & (SLOTS - 1)


def crowd(count: int) -> list[bytes]:
    """Paths that want the same few places of the table, around its end."""
    every = (pack_path(0, "192.0.2.1", port) for port in range(1, 65_536))
    near = (by for by in every if (place(by) + 4) % SLOTS < 8)
    return [by for by, _ in zip(near, range(count), strict=False)]


CROWD = crowd(32)


@needs_library
@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 23), st.none() | st.integers(0, len(CROWD) - 1)),
        min_size=40,
        max_size=90,
    )
)
def test_a_packet_finds_the_line_that_its_path_was_given_to_last(
    changes: list[tuple[int, int | None]],
) -> None:
    # given lines that come, move, take each other's path and go
    compiled, keys, client = Compiled(), keyed(Policy.SSRC_ANY_INBOUND), Client()
    calls = [Call(keys) for _ in range(24)]
    model: dict[bytes, int] = {}
    for number, at in changes:
        model = {by: other for by, other in model.items() if other != number}
        if at is not None:
            model[CROWD[at]] = number
        call = calls[number]
        compiled.connect(call.line, call, None if at is None else CROWD[at])

    # when a packet comes by each path
    found = {by: taken(compiled, calls, client.packet(), by) for by in CROWD}

    # then it is given to the line that has the path, and left where nobody has
    assert found == {by: model.get(by) for by in CROWD}
    assert compiled._voice.lines == len(model)


@needs_library
def test_so_many_lines_find_their_packets_and_the_next_one_is_left_to_python() -> None:
    # given as many as there may be, and one more
    compiled, keys, client = Compiled(), keyed(Policy.SSRC_ANY_INBOUND), Client()
    calls = [Call(keys) for _ in range(LINES + 1)]
    paths = [pack_path(n % 3, f"192.0.2.{n % 250}", 1024 + n) for n in range(LINES + 1)]
    for call, by in zip(calls, paths, strict=True):
        compiled.connect(call.line, call, by)

    # when each gets a packet
    took = []
    for by in paths:
        if (done := compiled.take(client.packet(), by)) == FULL:
            compiled.hand_on()
            done = compiled.take(client.packet(), by)
        took.append(done)
    compiled.hand_on()

    # then the engine has all but the last one's, which finds room when another goes
    assert took == [1] * LINES + [0]
    assert [len(call.got) for call in calls] == [1] * LINES + [0]
    compiled.connect(calls[0].line, calls[0], None)
    compiled.connect(calls[-1].line, calls[-1], paths[-1])
    assert compiled.take(client.packet(), paths[-1]) == 1
    assert compiled.take(client.packet(), paths[0]) == 0


# ---- what is queued ------------------------------------------------------------------------------


@needs_library
def test_a_call_that_ends_while_its_packet_waits_is_not_called() -> None:
    compiled, keys, client = Compiled(), keyed(Policy.SSRC_ANY_INBOUND), Client()
    gone, other = Call(keys), Call(keys)
    elsewhere = pack_path(0, "192.0.2.1", 5005)
    compiled.connect(gone.line, gone, PATH)
    compiled.connect(other.line, other, elsewhere)

    assert compiled.take(client.packet(), PATH) == 1
    assert compiled.take(client.packet(), elsewhere) == 1
    compiled.connect(gone.line, gone, None)
    del gone.line
    compiled.hand_on()

    assert (gone.got, len(other.got)) == ([], 1)


@needs_library
def test_the_queue_holds_a_batch_and_refuses_one_more_until_it_is_handed_on() -> None:
    compiled, call, client = Compiled(), Call(keyed(Policy.SSRC_ANY_INBOUND)), Client()
    compiled.connect(call.line, call, PATH)

    assert [compiled.take(client.packet(), PATH) for _ in range(QUEUE)] == [1] * QUEUE
    late = client.packet()
    assert compiled.take(late, PATH) == FULL
    compiled.hand_on()

    assert compiled.take(late, PATH) == 1
    compiled.hand_on()
    assert len(call.got) == QUEUE + 1


@needs_library
def test_forged_and_replayed_packets_are_counted_and_nobody_hears_them() -> None:
    compiled, call, client = Compiled(), Call(keyed(Policy.SSRC_ANY_INBOUND)), Client()
    compiled.connect(call.line, call, PATH)
    secret = client.packet()
    forged = secret[:-1] + bytes([secret[-1] ^ 1])

    assert [compiled.take(data, PATH) for data in (forged, secret, secret)] == [1, 1, 1]

    assert compiled.hand_on() == (0, 2)
    assert len(call.got) == 1
    assert compiled.hand_on() == (0, 0)


@needs_library
@given(st.binary(max_size=1600))
def test_what_is_no_rtp_is_left_to_python(data: bytes) -> None:
    compiled, call = Compiled(), Call(keyed(Policy.SSRC_ANY_INBOUND))
    compiled.connect(call.line, call, PATH)
    is_media = 12 <= len(data) <= 1500 and data[0] >> 6 == 2 and not rtp.is_rtcp(data)

    assert compiled.take(data, PATH) == int(is_media)
    assert compiled.hand_on() == (0, int(is_media))


@needs_library
@pytest.mark.parametrize("host", HOSTS)
def test_of_a_batch_the_media_of_a_call_is_taken_and_the_rest_left(host: str) -> None:
    with Line(host) as line, Line(host) as stranger:
        # given media among other datagrams, and media from somewhere else
        compiled, call, client = Compiled(), Call(keyed(Policy.SSRC_ANY_INBOUND)), Client()
        compiled.connect(call.line, call, line.path)
        server = line.public.getsockname()
        for data in (b"", client.packet(), b"\x01", bytes(20), b"\x80" * 1501, b"\x80" * 3000):
            line.client.sendto(data, server)
        stranger.client.sendto(client.packet(), server)
        line.client.sendto(b"\x80\xc9" + bytes(30), server)
        line.client.sendto(client.packet(), server)
        batch = Batch(line.public.family)

        # when they are read together
        count = batch.receive(line.public.fileno())
        left = compiled.sort(batch.headers, count, 0)
        compiled.hand_on()

        # then two of them are taken
        assert count == 9
        assert list(left) == [0, 2, 3, 4, 5, 6, 7]
        assert len(call.got) == 2
        assert list(Engine().sort(batch.headers, count, 0)) == list(range(9))


def test_python_alone_takes_nothing() -> None:
    plain = Engine()

    assert not plain.take(Client().packet(), PATH)
    assert plain.hand_on() == (0, 0)
    assert plain.speak() == (0, 0)
