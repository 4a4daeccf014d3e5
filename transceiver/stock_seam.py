"""The seam's other half: peer connections that the app makes stay aiortc's own, on our transport.

With seam.py and dtls.py it touches private names of aiortc. Tracks, codecs and SDP are stock; only
where a peer connection looks for its ICE gatherer, ICE and DTLS transport and certificate it finds ours.
"""

import contextlib
from collections import deque
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import aiortc.rtcpeerconnection as aiortc_pc
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcicetransport import RTCIceGatherer, RTCIceParameters, RTCIceTransport
from OpenSSL import SSL

from voicerelay.transceiver.dtls import (
    MAX_DATAGRAM_SENT_BYTES,
    MAX_FLIGHT_BYTES,
    Certificate,
    cut_at_records,
)
from voicerelay.transceiver.lite import LiteConnection
from voicerelay.transceiver.stock import StockCall, StockHost

MAX_PENDING_DATAGRAMS = 256  # media too, while the app keeps the loop busy: a second of video

wanted = False
_outbound: ContextVar[bool] = ContextVar("voicerelay_outbound", default=False)


class OffersAreNotOurs(Exception):
    """The app makes an offer with a peer connection that can only answer."""


class StockConnection(LiteConnection):
    """Takes the place of aioice.Connection in one transport of a call."""

    max_pending = MAX_PENDING_DATAGRAMS

    def __init__(self, call: StockCall) -> None:
        super().__init__(call)
        self.call = call
        self.path = b""
        self.dtls: RTCDtlsTransport | None = None
        self._paths: deque[bytes] = deque()
        self._restart_with: str | None = None
        call.attach(self)

    async def gather_candidates(self) -> None:
        if self.ice_controlling:
            raise OffersAreNotOurs(
                "voicerelay answers offers; to call somebody else,"
                " make the peer connection `with voicerelay.aiortc.outbound():`"
            )
        await self.call.begin()
        await super().gather_candidates()

    def remote_ufrag_is(self, ufrag: str) -> None:
        """What an offer says; another ufrag than before asks for an ICE restart (RFC 8445 §9)."""
        if self.remote_username is None:
            self.call.met(ufrag)
        elif self.remote_username != ufrag:
            self._restart_with = self.remote_username = ufrag

    async def restart_if_asked(self) -> None:
        """Have new credentials before the answer is written. Raises DirectoryError."""
        if self._restart_with is not None:
            ufrag, self._restart_with = self._restart_with, None
            await self.call.restart(ufrag)
            self.local_username, self.local_password = self.call.ufrag, self.call.password

    def take(self, data: bytes, path: bytes) -> bool:
        """A datagram of the peer; False when too many wait."""
        taken = self.deliver(data)
        if taken:
            self._paths.append(path)
        return taken

    async def recv(self) -> bytes:
        data = await super().recv()
        self.path = self._paths.popleft()
        return data

    async def close(self) -> None:
        await super().close()
        self.call.detach(self)

    async def goodbye(self) -> None:
        """End DTLS as its peer expects it, and let aiortc see that ICE is over."""
        if self.dtls is not None:
            await self.dtls.stop()
        self.end()


class _Gatherer(RTCIceGatherer):
    def __init__(self, call: StockCall) -> None:
        super().__init__(iceServers=[])  # its own connection is never used: no socket, no task
        self.connection = StockConnection(call)
        self._connection: Any = self.connection

    async def gather(self) -> None:
        await super().gather()
        await self.connection.restart_if_asked()

    def getLocalParameters(self) -> RTCIceParameters:
        parameters = super().getLocalParameters()
        parameters.iceLite = True
        return parameters


class _IceTransport(RTCIceTransport):
    async def start(self, remoteParameters: RTCIceParameters) -> None:
        """aiortc calls it again after every offer, before it gathers for the answer."""
        connection: Any = self._connection
        connection.remote_ufrag_is(remoteParameters.usernameFragment)
        await super().start(remoteParameters)


class _DtlsTransport(RTCDtlsTransport):
    def __init__(self, transport: RTCIceTransport, certificates: list[Any]) -> None:
        super().__init__(transport, certificates)
        connection: Any = transport._connection
        self._stock: StockConnection = connection
        self._stock.dtls = self
        self.on("statechange", self._changed)

    async def _handle_rtp_data(self, data: bytes, arrival_time_ms: int) -> None:
        self._stock.call.authentic(self._stock.path)
        await super()._handle_rtp_data(data, arrival_time_ms)

    async def _handle_rtcp_data(self, data: bytes) -> None:
        self._stock.call.authentic(self._stock.path)
        await super()._handle_rtcp_data(data)

    async def _do_handshake(self) -> None:
        ssl: Any = self._ssl
        ssl.set_ciphertext_mtu(MAX_DATAGRAM_SENT_BYTES)
        await super()._do_handshake()

    async def _write_ssl(self) -> None:
        """Stock sends up to 1500 bytes of a flight as they lie, cutting records in two."""
        ssl: Any = self._ssl
        try:
            flight = ssl.bio_read(MAX_FLIGHT_BYTES)
        except SSL.Error:
            return
        for datagram in cut_at_records(flight):
            await self.transport._send(datagram)

    def _changed(self) -> None:
        if self.state == "connected":
            self._stock.call.established()
        elif self.state == "failed":
            self._stock.call.end("DTLS failed")


def install() -> None:
    """Let the peer connections that this app makes live behind voicerelay's one UDP port.

    Has an effect inside a transceiver only: elsewhere the same app runs on plain aiortc.
    """
    global wanted
    wanted = True


@contextlib.contextmanager
def outbound() -> Iterator[None]:
    """Peer connections made, and given their tracks, in this block are plain aiortc with own sockets."""
    token = _outbound.set(True)
    try:
        yield
    finally:
        _outbound.reset(token)


def place(host: StockHost) -> None:
    """Put our classes where RTCPeerConnection looks for its own."""
    module: Any = aiortc_pc
    gatherer, ice, dtls = module.RTCIceGatherer, module.RTCIceTransport, module.RTCDtlsTransport
    certificates = module.RTCCertificate

    def ours() -> bool:
        return not _outbound.get()

    def make_gatherer(*args: Any, local_username: str | None = None, **kwargs: Any) -> Any:
        if ours():
            return _Gatherer(host.call(local_username))
        return gatherer(*args, local_username=local_username, **kwargs)

    def make_ice(made_with: RTCIceGatherer) -> Any:
        return (_IceTransport if isinstance(made_with, _Gatherer) else ice)(made_with)

    def make_dtls(transport: RTCIceTransport, certificates: list[Any]) -> Any:
        is_ours = isinstance(transport, _IceTransport)
        return (_DtlsTransport if is_ours else dtls)(transport, certificates)

    class CertificateSource:
        @staticmethod
        def generateCertificate() -> Any:
            return Certificate.shared() if ours() else certificates.generateCertificate()

    module.RTCIceGatherer = make_gatherer
    module.RTCIceTransport = make_ice
    module.RTCDtlsTransport = make_dtls
    module.RTCCertificate = CertificateSource
