"""aiortc's own peer connections on our transport: what they answer, when they stay as they are, how they end."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiortc.rtcpeerconnection as aiortc_pc
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcicetransport import RTCIceGatherer, RTCIceTransport
from aiortc.rtcrtpreceiver import RTCRtpReceiver
from aiortc.rtcrtpsender import RTCRtpSender

import voicerelay.aiortc
from tests.unit.transceiver.signalling.test_offer import BROWSERS, CHROMIUM, WITH_CANDIDATES
from tests.unit.transceiver.test_session import HANDSHAKE, WAIT_S, Host, until
from tests.unit.transceiver.test_stock import SRTP, Stage, check, stage
from voicerelay.transceiver import stock_seam
from voicerelay.transceiver.dtls import MAX_DATAGRAM_SENT_BYTES
from voicerelay.transceiver.registry import ServerFull
from voicerelay.transceiver.stock import StockCall
from voicerelay.transceiver.stock_seam import MAX_PENDING_DATAGRAMS, OffersAreNotOurs, outbound

PATCHED = (
    *("RTCIceGatherer", "RTCIceTransport", "RTCDtlsTransport"),
    *("RTCRtpReceiver", "RTCRtpSender", "RTCCertificate"),
)


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """aiortc's own classes again afterwards."""
    for name in PATCHED:
        monkeypatch.setattr(aiortc_pc, name, getattr(aiortc_pc, name))
    monkeypatch.setattr(stock_seam, "wanted", False)
    return iter([None])


@contextlib.asynccontextmanager
async def placed(most: int = 3) -> AsyncIterator[Stage]:
    """A transceiver whose app has asked for it."""
    async with stage(most) as here:
        stock_seam.place(here.stock)
        yield here


async def answered(pc: RTCPeerConnection, sdp: str = CHROMIUM) -> str:
    """What an app does with an offer."""
    await pc.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
    await pc.setLocalDescription(await pc.createAnswer())
    return pc.localDescription.sdp


def call_of(pc: RTCPeerConnection) -> StockCall:
    transport: Any = pc.getTransceivers()[0].receiver.transport.transport
    call: StockCall = transport._connection.call
    return call


async def over(here: Host) -> bool:
    await until(lambda: not here.directory.routes)
    return not here.mux.by_ufrag


# ---- answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sdp", [*BROWSERS.values(), WITH_CANDIDATES])
def test_an_answer_is_lite_has_our_candidate_and_stock_tracks(sdp: str) -> None:
    async def run() -> None:
        async with placed() as here:
            # given an app's peer connection that sends a track of its own
            pc = RTCPeerConnection()
            pc.addTrack(AudioStreamTrack())

            found = await answered(pc, sdp)

            host, port = here.here.candidates[0]
            call = call_of(pc)
            assert found.count("a=ice-lite\r\n") == 1
            for section in found.split("m=")[1:]:
                candidates = re.findall(
                    r"a=candidate:\d+ \d+ udp \d+ (\S+) (\d+) typ host", section
                )
                assert candidates == [(host, str(port))]
                assert f"a=ice-ufrag:{call.ufrag}\r\n" in section
                assert f"a=ice-pwd:{call.password}\r\n" in section
            (transceiver,) = pc.getTransceivers()
            assert type(transceiver.receiver) is RTCRtpReceiver
            assert type(transceiver.sender) is RTCRtpSender
            assert here.registry.sessions == 1
            await pc.close()
            assert await over(here.here)

    asyncio.run(run())


def test_transports_that_are_bundled_share_one_call() -> None:
    async def run() -> None:
        async with placed() as here:
            # given an offer whose sections each get a transport first
            pc = RTCPeerConnection()
            pc.addTransceiver("audio")
            pc.createDataChannel("chat")

            await answered(pc)

            assert here.registry.sessions == 1
            assert len(here.here.directory.routes) == 1
            await pc.close()
            assert here.registry.sessions == 0

    asyncio.run(run())


def test_a_client_whose_ufrag_the_offer_names_is_answered() -> None:
    async def run() -> None:
        async with placed() as here:
            pc = RTCPeerConnection()
            await answered(pc)
            client, call = here.here.client(), call_of(pc)
            found = re.search(r"a=ice-ufrag:(\S+)", CHROMIUM)
            assert found

            await until(lambda: bool(call._reach.ice.credentials.remote_ufrag))
            check(client, call, nominate=True, remote=found[1])

            assert client.replies() == 1
            await until(lambda: pc.iceConnectionState == "completed")
            # and aiortc, being the DTLS client, speaks: at most 1200 bytes at once
            client.sock.setblocking(True)
            client.sock.settimeout(WAIT_S)
            flight = await asyncio.get_running_loop().run_in_executor(None, client.sock.recv, 2048)
            assert flight[0] == HANDSHAKE[0]
            assert len(flight) <= MAX_DATAGRAM_SENT_BYTES
            await pc.close()

    asyncio.run(run())


def test_an_ice_restart_gets_new_credentials_in_its_answer() -> None:
    async def run() -> None:
        async with placed() as here:
            # given a call, and an offer with other credentials than before
            pc = RTCPeerConnection()
            await answered(pc)
            call = call_of(pc)
            before = call.ufrag, call.password
            await until(lambda: bool(call._reach.ice.credentials.remote_ufrag))

            restart = re.sub(r"a=ice-ufrag:\S+", "a=ice-ufrag:again", CHROMIUM)
            found = await answered(pc, restart)

            assert (call.ufrag, call.password) != before
            assert f"a=ice-ufrag:{call.ufrag}\r\n" in found
            assert call._reach.ice.credentials.remote_ufrag == b"again"
            # and an offer without them changes nothing
            assert f"a=ice-ufrag:{call.ufrag}\r\n" in await answered(pc, restart)
            assert here.registry.sessions == 1
            await pc.close()
            assert await over(here.here)

    asyncio.run(run())


def test_candidates_of_the_client_are_taken_and_forgotten() -> None:
    async def run() -> None:
        async with placed():
            pc = RTCPeerConnection()
            await answered(pc, WITH_CANDIDATES)

            await pc.addIceCandidate(None)

            transport: Any = pc.getTransceivers()[0].receiver.transport.transport
            assert transport.getRemoteCandidates() == []
            await pc.close()

    asyncio.run(run())


# ---- refusals and exceptions ---------------------------------------------------------------------


def test_a_full_transceiver_refuses_the_answer() -> None:
    async def run() -> None:
        async with placed(most=1) as here:
            first, second = RTCPeerConnection(), RTCPeerConnection()
            await answered(first)

            with pytest.raises(ServerFull):
                await answered(second)

            await second.close()
            await first.close()
            assert here.registry.sessions == 0

    asyncio.run(run())


def test_an_offer_of_the_app_is_refused_with_a_way_out() -> None:
    async def run() -> None:
        async with placed() as here:
            pc = RTCPeerConnection()
            pc.addTransceiver("audio")

            with pytest.raises(OffersAreNotOurs, match="outbound"):
                await pc.setLocalDescription(await pc.createOffer())

            assert here.registry.sessions == 0
            await pc.close()

    asyncio.run(run())


def test_an_outbound_peer_connection_is_plain_aiortc() -> None:
    async def run() -> None:
        async with placed():
            with outbound():
                pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
                pc.addTransceiver("audio")

            dtls = pc.getTransceivers()[0].receiver.transport
            assert type(dtls) is RTCDtlsTransport
            assert type(dtls.transport) is RTCIceTransport
            assert type(dtls.transport.iceGatherer) is RTCIceGatherer
            await pc.close()

    asyncio.run(run())


def test_sessions_of_our_own_stay_as_they_are() -> None:
    async def run() -> None:
        async with placed() as here:
            session = await here.here.session()

            assert here.registry.sessions == 0  # it has not been made by the registry
            assert session.ufrag.encode() in here.here.mux.by_ufrag

    asyncio.run(run())


def test_install_only_says_that_it_is_wanted() -> None:
    gatherer = aiortc_pc.RTCIceGatherer  # type: ignore[attr-defined]

    voicerelay.aiortc.install()

    assert stock_seam.wanted
    assert aiortc_pc.RTCIceGatherer is gatherer  # type: ignore[attr-defined]


# ---- ends ----------------------------------------------------------------------------------------


def test_a_call_that_the_transceiver_ends_fails_in_the_apps_eyes() -> None:
    async def run() -> None:
        async with placed() as here:
            pc = RTCPeerConnection()
            await answered(pc)
            call = call_of(pc)
            await until(lambda: pc.iceConnectionState == "checking")

            call.end("consent expired")
            await call.ended.wait()

            await until(lambda: pc.connectionState == "failed")
            await pc.close()
            assert here.registry.sessions == 0

    asyncio.run(run())


def test_media_that_nobody_reads_fills_a_bounded_queue() -> None:
    async def run() -> None:
        async with placed():
            pc = RTCPeerConnection()
            await answered(pc)
            transport: Any = pc.getTransceivers()[0].receiver.transport.transport
            connection = transport._connection

            taken = [connection.take(SRTP, b"p" * 20) for _ in range(MAX_PENDING_DATAGRAMS + 1)]

            assert taken == [True] * MAX_PENDING_DATAGRAMS + [False]
            async with asyncio.timeout(WAIT_S):
                assert await connection.recv() == SRTP
            assert connection.path == b"p" * 20
            await pc.close()

    asyncio.run(run())
