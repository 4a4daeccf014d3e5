"""Datagrams in and out of a transceiver: law 1 on this side too, every packet counted, no frame too strange."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from voicerelay.shm import stun
from voicerelay.shm.counters import BLOCK_BYTES, Block, TransceiverCounter
from voicerelay.shm.frame import MAX_DATAGRAM_BYTES, entry_header
from voicerelay.shm.path import PATH_BYTES, pack_path
from voicerelay.shm.receive import MAX_BATCH
from voicerelay.transceiver.mux import (
    DSCP_EF_TOS,
    MAX_CACHED_ADDRESSES,
    MAX_FRAMES_DRAIN,
    MAX_RELAY_LINKS,
    Mux,
)
from voicerelay.transceiver.voice.rtp import RtpPacket

WAIT_S = 10.0
UFRAG = b"AAAAbbbbCCCCdddd0001"
PATH = pack_path(0, "192.0.2.7", 40_000)
OTHER_PATH = pack_path(0, "192.0.2.8", 40_000)
RTP = b"\x80" * 40


def check(ufrag: bytes = UFRAG, kind: int = stun.BINDING_REQUEST) -> bytes:
    return stun.build(kind, bytes(12), [(stun.USERNAME, ufrag + b":theirs")], b"password")


def entry(data: bytes, path: bytes = PATH, relay: int = 3) -> bytes:
    return entry_header(len(data), relay, path) + data


class Recorder:
    """An endpoint that takes everything."""

    def __init__(self, block: Block) -> None:
        self.stun: list[tuple[bytes, bytes, int | None]] = []
        self.other: list[tuple[bytes, bytes, int | None]] = []
        self._block = block

    def stun_received(self, data: bytes, path: bytes, relay: int | None) -> None:
        self.stun.append((data, path, relay))
        self._block.add(TransceiverCounter.PACKETS_DELIVERED)

    def datagram_received(self, data: bytes, path: bytes, relay: int | None) -> None:
        self.other.append((data, path, relay))
        self._block.add(TransceiverCounter.PACKETS_DELIVERED)

    def path_lost(self, path: bytes) -> None: ...


class Host:
    """A mux that listens, with a session known by ufrag and one known by path."""

    def __init__(self, run_dir: Path) -> None:
        self.block = Block(memoryview(bytearray(BLOCK_BYTES)).cast("Q"))
        self.mux = Mux(asyncio.get_running_loop(), self.block)
        self.by_ufrag, self.by_path = Recorder(self.block), Recorder(self.block)
        self.mux.by_ufrag[UFRAG] = self.by_ufrag
        self.mux.by_path[PATH] = self.by_path
        self.listening = run_dir / "frames.sock"
        self.mux.listen(self.listening)
        self.relays: list[socket.socket] = []

    def relay(self) -> socket.socket:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        link.connect(str(self.listening))
        self.relays.append(link)
        return link

    def get(self, counter: TransceiverCounter) -> int:
        return self.block.get(counter)

    def dropped(self) -> dict[TransceiverCounter, int]:
        return {c: self.get(c) for c in TransceiverCounter if c.name[:4] == "DROP" and self.get(c)}

    async def frames(self, count: int) -> None:
        await until(lambda: self.get(TransceiverCounter.FRAMES_RECEIVED) >= count)


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not happened():
            await asyncio.sleep(0)


@contextlib.contextmanager
def host() -> Iterator[Host]:
    with TemporaryDirectory() as folder:
        made = Host(Path(folder))
        try:
            yield made
        finally:
            made.mux.close()
            for link in made.relays:
                link.close()


def test_a_binding_request_goes_by_ufrag_and_everything_else_by_path() -> None:
    async def run() -> None:
        with host() as here:
            # given one frame with a check for one session from the path of another
            response = check(kind=stun.BINDING_SUCCESS)
            link = here.relay()
            link.send(entry(check()) + entry(RTP) + entry(response) + entry(b"\x16" * 20))

            # when it arrives
            await here.frames(1)

            # then law 1 holds
            assert here.by_ufrag.stun == [(check(), PATH, 3)]
            assert here.by_path.stun == [(response, PATH, 3)]
            assert here.by_path.other == [(RTP, PATH, 3), (b"\x16" * 20, PATH, 3)]
            assert here.get(TransceiverCounter.PACKETS_RECEIVED) == 4

    asyncio.run(run())


def test_a_packet_for_nobody_is_counted() -> None:
    async def run() -> None:
        with host() as here:
            for data in (check(UFRAG[::-1]), check()[:-1], b"\x00\x01"):
                here.mux.dispatch(data, PATH, 0)
            for data in (RTP, check(kind=stun.BINDING_INDICATION)):
                here.mux.dispatch(data, OTHER_PATH, 0)

            assert here.dropped() == {
                TransceiverCounter.DROPPED_UNKNOWN_UFRAG: 3,
                TransceiverCounter.DROPPED_UNKNOWN_PATH: 2,
            }

    asyncio.run(run())


DATAGRAMS = st.one_of(
    st.sampled_from([check(), check(b"x" * 20), RTP, b"\x00", b"\x16\xfe\xfd", b"\xff"]),
    st.binary(min_size=1, max_size=60),
)
ENTRIES = st.builds(entry, DATAGRAMS, st.sampled_from([PATH, OTHER_PATH, b"\xff" * PATH_BYTES]))
FRAMES = st.one_of(st.binary(min_size=1, max_size=80), st.lists(ENTRIES, min_size=1).map(b"".join))


@settings(deadline=None)
@given(st.lists(st.builds(bytes.__add__, FRAMES, st.binary(max_size=30)), max_size=12))
def test_any_frame_is_taken_apart_or_counted_as_malformed(frames: list[bytes]) -> None:
    async def run() -> None:
        with host() as here:
            # given a relay that sends what it likes, then a good frame
            link = here.relay()
            for frame in (*frames, entry(RTP)):
                link.send(frame)

            # when all of it has arrived
            await here.frames(len(frames) + 1)

            # then the link lives, and received = delivered + dropped
            drops = here.dropped()
            malformed = drops.pop(TransceiverCounter.DROPPED_MALFORMED_FRAME, 0)
            assert here.by_path.other[-1] == (RTP, PATH, 3)
            assert malformed <= len(frames)
            assert here.get(TransceiverCounter.PACKETS_RECEIVED) == (
                here.get(TransceiverCounter.PACKETS_DELIVERED) + sum(drops.values())
            )

    asyncio.run(run())


def test_what_stands_before_a_bad_entry_is_delivered() -> None:
    async def run() -> None:
        with host() as here:
            too_long = entry_header(MAX_DATAGRAM_BYTES + 1, 0, PATH) + bytes(MAX_DATAGRAM_BYTES + 1)
            here.relay().send(entry(RTP) + too_long)

            await here.frames(1)

            assert here.by_path.other == [(RTP, PATH, 3)]
            assert here.dropped() == {TransceiverCounter.DROPPED_MALFORMED_FRAME: 1}

    asyncio.run(run())


def test_one_busy_relay_does_not_hold_up_the_loop() -> None:
    async def run() -> None:
        with host() as here:
            link = here.relay()
            for _ in range(MAX_FRAMES_DRAIN + 3):
                link.send(entry(RTP))

            await here.frames(1)
            assert here.get(TransceiverCounter.FRAMES_RECEIVED) == MAX_FRAMES_DRAIN
            await here.frames(MAX_FRAMES_DRAIN + 3)

    asyncio.run(run())


def test_a_relay_that_goes_is_forgotten_and_the_next_one_served() -> None:
    async def run() -> None:
        with host() as here:
            first = here.relay()
            first.send(entry(RTP))
            await here.frames(1)
            first.close()
            await until(lambda: not here.mux._links)

            here.relay().send(entry(RTP))

            await here.frames(2)
            assert len(here.by_path.other) == 2

    asyncio.run(run())


def test_links_are_bounded_and_the_first_ones_stay() -> None:
    async def run() -> None:
        with host() as here:
            # given as many relays as there may be
            for _ in range(MAX_RELAY_LINKS):
                here.relay()
            await until(lambda: len(here.mux._links) == MAX_RELAY_LINKS)

            # when one more connects
            extra = here.relay()
            extra.setblocking(False)
            here.relays[0].send(entry(RTP))
            await here.frames(1)

            # then it is turned away
            async with asyncio.timeout(WAIT_S):
                assert await asyncio.get_running_loop().sock_recv(extra, 1) == b""
            assert len(here.mux._links) == MAX_RELAY_LINKS

    asyncio.run(run())


def udp() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.settimeout(WAIT_S)
    return sock


def test_a_reply_goes_straight_to_the_client_from_the_public_socket_as_voice() -> None:
    async def run() -> None:
        with host() as here, udp() as public, udp() as client:
            # given the public sockets, replaced once (control was restarted)
            here.mux.use_public([udp()], steered=False)
            (old,) = here.mux._public
            here.mux.use_public([public.dup()], steered=False)

            # when a session says something
            here.mux.send(b"hello", pack_path(0, *client.getsockname()))

            # then it comes from there, marked EF (RFC 8837 §5)
            assert client.recvfrom(100) == (b"hello", public.getsockname())
            assert public.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == DSCP_EF_TOS == 46 * 4
            assert old.fileno() == -1
            assert here.get(TransceiverCounter.PACKETS_SENT) == 1

    asyncio.run(run())


def test_a_send_that_fails_is_counted_and_nothing_more() -> None:
    async def run() -> None:
        with host() as here:
            here.mux.send(b"before there is a socket", PATH)
            here.mux.use_public([udp()], steered=False)
            here.mux.send(b"at another listen address", pack_path(1, "192.0.2.7", 1))
            here.mux.send(b"to port 0", pack_path(0, "127.0.0.1", 0))
            here.mux.send(b"to another family", pack_path(0, "::1", 9))
            here.mux.send(bytes(70_000), pack_path(0, "127.0.0.1", 9))

            assert here.get(TransceiverCounter.SEND_FAILURES) == 5
            assert here.get(TransceiverCounter.PACKETS_SENT) == 0

    asyncio.run(run())


def test_remembered_addresses_are_bounded() -> None:
    async def run() -> None:
        with host() as here:
            for number in range(MAX_CACHED_ADDRESSES + 5):
                here.mux.send(b"", pack_path(0, "192.0.2.1", number))

            assert len(here.mux._addresses) <= MAX_CACHED_ADDRESSES

    asyncio.run(run())


def test_what_the_kernel_steers_here_is_dispatched_like_what_relays_bring() -> None:
    async def run() -> None:
        with host() as here, udp() as public, udp() as client:
            # given our own public socket, and a session known by the client's path
            path = pack_path(0, *client.getsockname())
            here.mux.by_path[path] = here.by_path
            here.mux.use_public([public.dup()], steered=True)

            # when a check, media and then more than one wake-up's worth arrive
            client.connect(public.getsockname())
            for data in (check(), *([RTP] * (MAX_BATCH + 1))):
                client.send(data)
            await until(lambda: bool(here.by_ufrag.stun))

            # then a wake-up takes its share and the rest follows, none of it from a relay
            assert here.get(TransceiverCounter.PACKETS_RECEIVED) == MAX_BATCH
            await until(lambda: len(here.by_path.other) == MAX_BATCH + 1)
            assert here.by_ufrag.stun == [(check(), path, None)]
            assert set(here.by_path.other) == {(RTP, path, None)}

    asyncio.run(run())


def test_media_goes_on_after_the_last_datagram_that_came_with_it() -> None:
    async def run() -> None:
        with host() as here:
            # given a session that puts its media off
            happened: list[str] = []
            packet = RtpPacket(False, 111, 1, 960, 7, b"opus")

            class Putting(Recorder):
                def datagram_received(self, data: bytes, path: bytes, relay: int | None) -> None:
                    happened.append("received")
                    here.mux.put_off(lambda *heard: happened.append(f"heard {heard}"), packet, 5.0)
                    super().datagram_received(data, path, relay)

            here.mux.by_path[PATH] = Putting(here.block)

            # when two packets come in one frame, and one more by itself
            here.relay().send(entry(RTP) * 2)
            await here.frames(1)
            here.mux.dispatch(RTP, PATH, None)

            # then those that came together are heard together
            heard = f"heard {(packet, 5.0)}"
            assert happened == ["received", "received", heard, heard, "received", heard]

    asyncio.run(run())


def test_empty_and_oversized_datagrams_steered_here_are_in_the_balance() -> None:
    async def run() -> None:
        with host() as here, udp() as public, udp() as client:
            here.mux.use_public([public.dup()], steered=True)
            client.connect(public.getsockname())

            for data in (b"", RTP.ljust(MAX_DATAGRAM_BYTES + 1, b"."), RTP):
                client.send(data)
            await until(lambda: sum(here.dropped().values()) == 3)

            assert here.get(TransceiverCounter.PACKETS_RECEIVED) == 3

    asyncio.run(run())


def test_sockets_that_are_no_longer_ours_are_not_read() -> None:
    async def run() -> None:
        with host() as here, udp() as public, udp() as client:
            # given steering that was there, and a control that came back without it
            here.mux.use_public([public.dup()], steered=True)
            here.mux.use_public([public.dup()], steered=False)

            client.sendto(RTP, public.getsockname())
            here.relay().send(entry(RTP))
            await here.frames(1)

            assert here.get(TransceiverCounter.PACKETS_RECEIVED) == 1

    asyncio.run(run())
